"""A small certificate authority for one federation: its certificate, the sites', requests, and who is revoked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fs_fedmllm.distributed.certificate_forms import alternatives, builder, hosts_in, request_for, subject_of, usage
from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.identity import (
    AUTHORITY,
    REVOKED,
    UNREADABLE,
    Role,
    alternative_names,
    key_pem,
    load_certificate,
    load_key,
    pem,
    public_bytes_of,
    read_file,
    read_revoked,
    require_current,
    role_in,
    role_of,
)
from fs_fedmllm.files.atomic import private_folder
from fs_fedmllm.quoting import shell_word

DAYS_AUTHORITY = 3650
DAYS = 365
FEDERATION = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def create_authority(folder: Path, federation: str, days: int = DAYS_AUTHORITY) -> x509.Certificate:
    """Make ``ca.key`` and ``ca.crt``.

    Args:
        folder: where to put them; made if need be.
        federation: its name, in every certificate: lower-case letters, digits, hyphens.
        days: how long it is valid.

    Raises:
        IdentityError: the name is no name, or a file is there already.
    """
    if not FEDERATION.fullmatch(federation):
        raise IdentityError(
            f"{federation!r} cannot be a federation's name: up to 63 lower-case letters, digits and hyphens can."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = subject_of(federation, "authority")
    certificate = (
        builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _refuse_existing(folder, AUTHORITY, ".key", ".crt")
    _write_new(folder / f"{AUTHORITY}.key", key_pem(key), 0o600)
    _write_new(folder / f"{AUTHORITY}.crt", pem(certificate), 0o644)
    return certificate


def create_identity(
    folder: Path, client: int = 0, hosts: Sequence[str] = (), days: int = DAYS, out: Path | None = None
) -> x509.Certificate:
    """Make a key and its certificate in one step, for sites that let the authority make their key.

    Args:
        folder: the authority's folder.
        client: client id, from 1; 0 is the server.
        hosts: the server's host names and addresses, as clients write them.
        days: how long it is valid.
        out: where to put ``client-<id>.key``, ``.crt`` and ``ca.crt``; the authority's folder if None.

    Raises:
        IdentityError: the authority is missing or expired, or a file is there already.
    """
    out = out or folder
    authority, _ = _load_authority(folder)
    name = Role("", client).name
    _refuse_existing(out, name, ".key", ".crt")
    key = ec.generate_private_key(ec.SECP256R1())
    request = request_for(key, Role(_federation(authority), client), hosts)
    certificate = _sign(folder, request, days)
    _write_new(out / f"{name}.key", key_pem(key), 0o600)
    _write_new(out / f"{name}.crt", pem(certificate), 0o644)
    _copy_authority(folder, out)
    return certificate


def sign_request(
    folder: Path, request_path: Path, client: int = 0, hosts: Sequence[str] = (), days: int = DAYS
) -> tuple[Path, x509.Certificate]:
    """Sign a site's request. Who it is for is the authority's word (``client``, ``hosts``); the request must agree.

    Args:
        folder: the authority's folder.
        request_path: the ``.csr`` that a site made.
        client: the client id that this site has been given; 0 is the server.
        hosts: the server's hosts.
        days: how long the certificate is valid.

    Returns:
        The certificate's path, beside the request, and the certificate.

    Raises:
        IdentityError: the request is damaged, or asks for another id, federation or host.
    """
    authority, _ = _load_authority(folder)
    request = _load_request(request_path)
    wanted = Role(_federation(authority), client)
    if not request.is_signature_valid:
        raise IdentityError(f"{request_path} is not signed by the key that it is for.")
    asked = role_in(request.extensions, str(request_path))
    if asked != wanted:
        raise IdentityError(
            f"{request_path} asks for {asked.name} of {asked.federation!r}, but you are signing for {wanted.name} of "
            f"{wanted.federation!r}."
        )
    if alternative_names(request.extensions) != alternatives(wanted, hosts):
        raise IdentityError(
            f"{request_path} asks for other host names than --host says: {', '.join(hosts_in(request.extensions))}."
        )
    target = request_path.with_suffix(".crt")
    _refuse_existing(target.parent, target.stem, ".crt")
    certificate = _sign(folder, request, days)
    _write_new(target, pem(certificate), 0o644)
    return target, certificate


def create_request(folder: Path, federation: str, client: int = 0, hosts: Sequence[str] = ()) -> Path:
    """Make a key that stays here, and the request that the authority signs.

    Raises:
        IdentityError: the name is no name, or a file is there already.
    """
    if not FEDERATION.fullmatch(federation):
        raise IdentityError(f"{federation!r} is not a federation's name; ask whoever made its authority.")
    role = Role(federation, client)
    _refuse_existing(folder, role.name, ".key", ".csr", ".crt")
    key = ec.generate_private_key(ec.SECP256R1())
    request = request_for(key, role, hosts)
    _write_new(folder / f"{role.name}.key", key_pem(key), 0o600)
    path = folder / f"{role.name}.csr"
    _write_new(path, request.public_bytes(serialization.Encoding.PEM), 0o644)
    return path


def revoke(folder: Path, certificate_path: Path) -> int:
    """Add a certificate's serial number to ``revoked.txt``; the server reads it from its certificates' folder.

    Returns:
        The serial number.

    Raises:
        IdentityError: the certificate is missing, or ``revoked.txt`` is damaged.
    """
    certificate = load_certificate(certificate_path)
    serial, name = certificate.serial_number, role_of(certificate).name
    path = folder / REVOKED
    if not path.exists() or serial not in read_revoked(path):
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{serial:x} {name}\n")
    return serial


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of a certificate, to compare by telephone."""
    return certificate.fingerprint(hashes.SHA256()).hex(":", 2)


def key_fingerprint(request_path: Path) -> str:
    """sha256 of the public key in a request, to compare by telephone.

    Raises:
        IdentityError: it is missing, or no request.
    """
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_bytes_of(_load_request(request_path).public_key()))
    return digest.finalize().hex(":", 2)


def _refuse_existing(folder: Path, name: str, *suffixes: str) -> None:
    for suffix in suffixes:
        if (folder / f"{name}{suffix}").exists():
            raise IdentityError(f"{folder / f'{name}{suffix}'} is there already; move it away to make another.")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet; its mode is set before its content, and its folder holds keys."""
    private_folder(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise IdentityError(f"{path} is there already; move it away to make another.") from None
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)


def _copy_authority(folder: Path, out: Path) -> None:
    target = out / f"{AUTHORITY}.crt"
    data = read_file(folder / f"{AUTHORITY}.crt")
    if not target.exists():
        _write_new(target, data, 0o644)
    elif read_file(target) != data:
        raise IdentityError(f"{target} is another federation's; name an empty folder with --out.")


def _load_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path = folder / f"{AUTHORITY}.crt"
    if not path.exists():
        command = f"fs-fedmllm certs init --folder {shell_word(folder)}"
        raise IdentityError(f"There is no authority in {folder}; make one: {command}")
    certificate = load_certificate(path)
    require_current(certificate, path)
    return certificate, load_key(folder / f"{AUTHORITY}.key")


def _load_request(path: Path) -> x509.CertificateSigningRequest:
    """A request whose parts can all be read."""
    try:
        request = x509.load_pem_x509_csr(read_file(path))
        _ = request.is_signature_valid, request.extensions, request.subject, public_bytes_of(request.public_key())
        return request
    except (*UNREADABLE, InvalidSignature):
        raise IdentityError(f"{path} is not a certificate signing request.") from None


def _federation(authority: x509.Certificate) -> str:
    found = authority.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else ""


def _sign(folder: Path, request: x509.CertificateSigningRequest, days: int) -> x509.Certificate:
    """Sign what was checked: only the key and the alternative names are taken from the request."""
    authority, key = _load_authority(folder)
    public = request.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise IdentityError("A request is for a key that is not P-256; make it with fs-fedmllm certs request.")
    role = role_in(request.extensions, "request")
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if role.client else ExtendedKeyUsageOID.SERVER_AUTH
    return (
        builder(subject_of(role.federation, role.name), authority.subject, public, days)
        .add_extension(x509.SubjectAlternativeName(alternative_names(request.extensions)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
