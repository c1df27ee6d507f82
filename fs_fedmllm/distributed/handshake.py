"""Why two sites do not come together: a handshake of Python's own, whose answers are codes.

gRPC says in a sentence, which changes between releases, that a connection failed, and a site would try again for
hours. What no further try can mend (another host's certificate, another authority's, an expired one) is told apart
here and ends the site at once.
"""

from __future__ import annotations

import socket
import ssl

from fs_fedmllm.distributed.errors import CertificateError, IdentityError
from fs_fedmllm.distributed.identity import Identity

#: Seconds for a connection and its handshake.
_PATIENCE = 5.0
#: OpenSSL's X509_V_ERR_*.
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_OTHER_AUTHORITY = (2, 18, 19, 20, 21)


def lasting_fault(host: str, port: int, identity: Identity) -> CertificateError | None:
    """What is wrong with one of the two certificates; None if nothing is, or if nobody can say now.

    Args:
        host: of the server, as ``fedmllm.network.address`` names it.
        port: of the server.
        identity: of this client, encrypted; no key of its is needed.
    """
    try:
        _names(host, port, identity, check_host=True)
    except ssl.SSLCertVerificationError as error:
        return CertificateError(_explained(host, port, identity, error))
    except (OSError, ValueError):  # out of reach, no TLS, or no name that a certificate could have
        return None
    try:
        if identity.certificate:
            identity.check_dates()
    except IdentityError as error:
        return CertificateError(str(error))
    return None


def _explained(host: str, port: int, identity: Identity, error: ssl.SSLCertVerificationError) -> str:
    server = f"The certificate of the server at {host}:{port} was not accepted:"
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        try:
            names = ", ".join(_names(host, port, identity, check_host=False)) or "no host"
        except (OSError, ValueError):
            names = "other hosts"
        return (
            f"{server} it is for {names}, not for {host}. Write one of its hosts in fedmllm.network.address, or have "
            f"the server's certificate made again with fs-fedmllm certs and --host {host}."
        )
    if error.verify_code in _OTHER_AUTHORITY:
        return (
            f"{server} another authority than the ca.crt of this site issued it. Take ca.crt and this client's "
            "certificate from the server's federation, or correct fedmllm.network.address."
        )
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"{server} it {when}. Have it made again with fs-fedmllm certs; is this machine's clock right?"
    return f"{server} {error.verify_message}. Have it made again with fs-fedmllm certs."


def _names(host: str, port: int, identity: Identity, *, check_host: bool) -> list[str]:
    """The hosts that the server's certificate names, once it is verified.

    The server has no chance to ask for ours before its own is looked at; a client that shows none is enough.
    """
    assert identity.authority is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=identity.authority.decode("ascii"))
    context.check_hostname = check_host
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), _PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        found = secure.getpeercert() or {}
    alternatives: tuple[tuple[str, str], ...] = found.get("subjectAltName", ())  # type: ignore[assignment]
    return [name for kind, name in alternatives if kind in ("DNS", "IP Address")]
