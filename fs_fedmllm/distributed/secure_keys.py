"""Whose keys they are: a client signs the round's public keys with its certificate's key, and the others look.

Without it the server could put keys of its own into the roster, under the ids of clients that are not there, and open
the update of the one client that is. Between sites on loopback without certificates nothing is signed, and nothing
can be known.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from fs_fedmllm.distributed.errors import IdentityError
from fs_fedmllm.distributed.identity import UNREADABLE, Identity, require_current
from fs_fedmllm.errors import PrivacyError

#: Longest certificate and signature that are looked at or passed on, in letters.
LONGEST = {"certificate": 16_384, "signature": 1024}
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_RSA = (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH), hashes.SHA256())


def prove(identity: Identity, session: bytes, round_index: int, keys: Mapping[str, bytes]) -> dict[str, str]:
    """What a client sends beside its keys: its certificate and a signature; nothing where there are no certificates.

    Args:
        identity: the client's.
        session: of the round.
        round_index: from 0.
        keys: ``seal`` and ``mask``.
    """
    if not identity.encrypted:
        return {}
    key = serialization.load_pem_private_key(identity.key, password=None)
    said = _statement(session, round_index, identity.role.client, keys)
    if isinstance(key, rsa.RSAPrivateKey):  # of another authority than ours
        signature = key.sign(said, *_RSA)
    else:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signature = key.sign(said, _ALGORITHM)
    return {"certificate": identity.certificate.decode("ascii"), "signature": signature.hex()}


def check(
    identity: Identity,
    session: bytes,
    round_index: int,
    client: int,
    keys: Mapping[str, bytes],
    proof: Mapping[str, object],
) -> None:
    """Whether a client of this federation has signed these keys for this round.

    Args:
        identity: of the site that looks.
        session: of the round.
        round_index: from 0.
        client: whose keys they are said to be.
        keys: ``seal`` and ``mask``.
        proof: what :func:`prove` gave.

    Raises:
        PrivacyError: it has not, or nobody can tell.
    """
    if not identity.encrypted:
        return
    assert identity.authority is not None
    pem, signature = proof.get("certificate"), proof.get("signature")
    if not isinstance(pem, str) or not isinstance(signature, str) or len(pem) > LONGEST["certificate"]:
        raise PrivacyError(f"The roster has keys of client {client} that no certificate vouches for.")
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(identity.authority))
        require_current(certificate, f"The certificate of client {client}")
        if not identity.belongs_to(certificate, client):
            owner = identity.owner_of(certificate)
            raise PrivacyError(f"The roster has keys of client {client} under the certificate of {owner}.")
        if certificate.serial_number in identity.revoked:
            raise PrivacyError(f"The roster has keys of client {client} under a certificate that was revoked.")
        public = certificate.public_key()
        said = _statement(session, round_index, client, keys)
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(bytes.fromhex(signature), said, *_RSA)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(bytes.fromhex(signature), said, _ALGORITHM)
        else:
            raise ValueError("neither a P-256 nor an RSA key")
    except (*UNREADABLE, InvalidSignature, IdentityError) as error:
        raise PrivacyError(
            f"The roster has keys of client {client} that it did not sign for this round "
            f"({str(error) or type(error).__name__}): somebody else made them."
        ) from None


def _statement(session: bytes, round_index: int, client: int, keys: Mapping[str, bytes]) -> bytes:
    said = f"fs-fedmllm secure aggregation keys|{session.hex()}|{round_index}|{client}|"
    return (said + f"{keys['seal'].hex()}|{keys['mask'].hex()}").encode()
