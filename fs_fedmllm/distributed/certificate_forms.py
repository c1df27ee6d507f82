"""What stands in the federation's certificates and requests, before anybody has signed them."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.identity import Role, alternative_names

#: Clocks of two sites may differ by so much.
SKEW = datetime.timedelta(minutes=10)


def subject_of(federation: str, name: str) -> x509.Name:
    """Whose certificate it is: a name within a federation."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """What every certificate has, valid from now on for so many days."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def usage(*, sign_certificates: bool) -> x509.KeyUsage:
    """What a key is for: an authority's signs certificates, everybody else's signs."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def request_for(key: ec.EllipticCurvePrivateKey, role: Role, hosts: Sequence[str]) -> x509.CertificateSigningRequest:
    """A request that says who its key belongs to, signed with that key.

    Raises:
        IdentityError: see :func:`alternatives`.
    """
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject_of(role.federation, role.name))
        .add_extension(x509.SubjectAlternativeName(alternatives(role, hosts)), critical=False)
        .sign(key, hashes.SHA256())
    )


def alternatives(role: Role, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """What a certificate names beside its subject: the owner's role, and the hosts of a server.

    Raises:
        IdentityError: a client has hosts, a server has none, or one cannot be a host's name.
    """
    if role.client and hosts:
        raise IdentityError("Only the server's certificate names hosts; leave --host out.")
    if not role.client and not hosts:
        raise IdentityError("The server's certificate must name its hosts as clients write them: --host NAME.")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(role.uri)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
                raise IdentityError(f"{host!r} is not a host name; write it without a port or wildcard.") from None
            names.append(x509.DNSName(host))
    return names


def hosts_in(extensions: x509.Extensions) -> list[str]:
    """The hosts that a certificate or request names."""
    return [
        str(name.value)
        for name in alternative_names(extensions)
        if not isinstance(name, x509.UniformResourceIdentifier)
    ]
