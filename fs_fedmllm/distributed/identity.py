"""Who is who: what a certificate says about its owner, and what a site needs to show and trust.

Every site has one P-256 key (BoringSSL, under gRPC, takes no Ed25519 by default) and one certificate, in which a URI
says what it is: ``fedmllm://<federation>/client/3`` or ``fedmllm://<federation>/server``. The server's certificate
also names its hosts, as browsers expect it. A site can make its own key and have only a request signed, so that no
private key travels (:mod:`fs_fedmllm.distributed.authority`). Nothing here imports torch.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.files.untrusted import read_regular

AUTHORITY = "ca"
SERVER = "server"
REVOKED = "revoked.txt"
_URI = re.compile(r"fedmllm://(?P<federation>[a-z0-9-]+)/(?:(?P<server>server)|client/(?P<client>[1-9][0-9]{0,8}))")


#: Bytes of a certificate, key, request or list of the revoked.
_LARGEST = 1 << 20
#: What cryptography raises at a file that is damaged, or of a kind or version that it does not know.
UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
               x509.UnsupportedGeneralNameType)  # fmt: skip


@dataclass(frozen=True)
class Role:
    """What a certificate says about its owner.

    Attributes:
        federation: name of the federation.
        client: client id, from 1; 0 is the server.
    """

    federation: str
    client: int

    @property
    def uri(self) -> str:
        """The URI that stands in the certificate."""
        return f"fedmllm://{self.federation}/{self.name.replace('-', '/')}"

    @property
    def name(self) -> str:
        """``server`` or ``client-3``; also the name of its files."""
        return f"client-{self.client}" if self.client else SERVER


@dataclass(frozen=True)
class Identity:
    """What one end of a connection shows and trusts. Load it with :meth:`load`; :meth:`plaintext` for loopback.

    Attributes:
        role: who this is.
        authority: the federation's certificate, PEM; None: no TLS, and ids are only claimed.
        certificate: this end's own, PEM.
        key: its private key, PEM; never printed.
        revoked: certificates that a server does not accept any more.
    """

    role: Role
    authority: bytes | None = None
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    revoked: Container[int] = ()

    @property
    def encrypted(self) -> bool:
        """Whether connections are encrypted and both ends show certificates."""
        return self.authority is not None

    @classmethod
    def plaintext(cls, client: int = 0) -> Identity:
        """No encryption and no proof; the transport takes it on loopback addresses only.

        Args:
            client: client id, from 1; 0 is the server.
        """
        return cls(Role("plaintext", client))

    @classmethod
    def load(cls, folder: Path, client: int = 0) -> Identity:
        """Read and check ``ca.crt``, ``client-<id>.crt`` and ``client-<id>.key`` (or ``server.*``).

        Args:
            folder: where the files lie.
            client: client id, from 1; 0 is the server.

        Raises:
            IdentityError: a file is missing, readable by others, expired, foreign, or somebody else's.
        """
        name = Role("", client).name
        authority = load_certificate(folder / f"{AUTHORITY}.crt")
        path = folder / f"{name}.crt"
        certificate = load_certificate(path)
        key_path = folder / f"{name}.key"
        key = load_key(key_path)
        for owner, found in ((folder / f"{AUTHORITY}.crt", authority), (path, certificate)):
            require_current(found, owner)
        try:
            certificate.verify_directly_issued_by(authority)
        except (*UNREADABLE, InvalidSignature):
            raise IdentityError(
                f"{path} was not issued by the authority in {folder / f'{AUTHORITY}.crt'}. Take both from the same "
                "federation."
            ) from None
        if public_bytes_of(key.public_key()) != public_bytes_of(certificate.public_key()):
            raise IdentityError(f"{key_path} is not the key of {path}; put the two that belong together there.")
        role = role_of(certificate)
        if role.client != client:
            raise IdentityError(f"{path} is the certificate of {role.name}, not of {name}.")
        return cls(role, pem(authority), pem(certificate), key_pem(key), Revoked(folder / REVOKED))

    def belongs_to(self, certificate: x509.Certificate, client: int) -> bool:
        """Whether a certificate, whose issuer the caller has checked, is that of a client of this federation.

        Raises:
            IdentityError: it does not say whose it is.
        """
        role = role_of(certificate)
        return client > 0 and (role.federation, role.client) == (self.role.federation, client)

    def owner_of(self, certificate: x509.Certificate) -> str:
        """Whose certificate it says that it is, for messages.

        Raises:
            IdentityError: it does not say.
        """
        return role_of(certificate).name

    def check_dates(self) -> None:
        """Look at this end's certificate again: a run may last longer than it.

        Raises:
            IdentityError: it has expired.
        """
        require_current(x509.load_pem_x509_certificate(self.certificate), f"The certificate of {self.role.name}")


def role_of(certificate: x509.Certificate) -> Role:
    """What a certificate says about its owner; the caller has checked who issued it.

    Raises:
        IdentityError: it has no URI of ours, or several.
    """
    return role_in(certificate.extensions, "certificate")


def role_of_pem(data: bytes) -> tuple[Role, int]:
    """:func:`role_of` for a PEM certificate, as gRPC shows it after the handshake, and its serial number.

    Raises:
        IdentityError: it is no certificate, or says nothing that we know.
    """
    try:
        certificate = x509.load_pem_x509_certificate(data)
        return role_of(certificate), certificate.serial_number
    except UNREADABLE:
        raise IdentityError("The other side's certificate cannot be read.") from None


class Revoked:
    """Serial numbers of certificates that are valid but no longer wanted, from ``revoked.txt``.

    The file is read again when it changes, so that a running server needs no restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()

    def __contains__(self, serial: object) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._serials = read_revoked(self._path)
            self._stamp = stamp
        return serial in self._serials


def read_revoked(path: Path) -> frozenset[int]:
    """Serial numbers in a ``revoked.txt``.

    Raises:
        IdentityError: it cannot be read, or is damaged.
    """
    try:
        lines = read_file(path).decode("utf-8").splitlines()
        return frozenset(int(line.split()[0], 16) for line in lines if line.strip())
    except ValueError:
        raise IdentityError(f"{path} is damaged: every line is a serial number and a name.") from None


def load_certificate(path: Path) -> x509.Certificate:
    """A certificate from a PEM file.

    Raises:
        IdentityError: it is missing, or no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(read_file(path))
        # Parsed when they are asked for: here, or where nobody expects it any more.
        _ = certificate.extensions, certificate.public_key(), certificate.subject, certificate.issuer
        return certificate
    except UNREADABLE:
        raise IdentityError(f"{path} is not a readable PEM certificate.") from None


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key from a PEM file that only its owner can read.

    Raises:
        IdentityError: it is missing, readable by others, or no key of ours.
    """
    data = read_file(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise IdentityError(f"{path} can be read by other users of this machine. Run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except UNREADABLE:
        raise IdentityError(f"{path} is not a private key, or is locked by a password.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{path} is not a P-256 key; make one with fs-fedmllm certs.")
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_file(path: Path) -> bytes:
    """A small file, whoever it comes from.

    Raises:
        IdentityError: it cannot be read.
    """
    try:
        return read_regular(path, _LARGEST)
    except OSError as error:
        raise IdentityError(f"{path} cannot be read ({error.strerror}). fs-fedmllm certs makes it.") from None


def require_current(certificate: x509.Certificate, path: Path | str) -> None:
    """Refuse a certificate that has expired or is not valid yet.

    Raises:
        IdentityError: it is one of the two.
    """
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        raise IdentityError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; have a new one issued.")
    if certificate.not_valid_before_utc > now:
        raise IdentityError(
            f"{path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; is this machine's clock "
            "right?"
        )


def alternative_names(extensions: x509.Extensions) -> list[x509.GeneralName]:
    """Alternative names of a certificate or request: the owner's URI, and a server's hosts."""
    try:
        return list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def role_in(extensions: x509.Extensions, what: str) -> Role:
    """What a certificate or request says about its owner.

    Raises:
        IdentityError: it has no URI of ours, or several.
    """
    uris = [name.value for name in alternative_names(extensions) if isinstance(name, x509.UniformResourceIdentifier)]
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise IdentityError(f"The {what} does not say which client of a federation it belongs to.")
    return Role(found["federation"], int(found["client"] or 0))


def public_bytes_of(key: object) -> bytes:
    """A public key, to compare it with another."""
    assert isinstance(key, ec.EllipticCurvePublicKey) or hasattr(key, "public_bytes")
    data: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM text, without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
