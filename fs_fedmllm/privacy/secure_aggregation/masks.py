"""Keys and masks: X25519, HKDF-SHA256, AES-256 in counter mode and ChaCha20-Poly1305, all from ``cryptography``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fs_fedmllm.errors import PrivacyError

#: Words that are masked at once, so that a mask never needs memory of an adapter's size.
_CHUNK = 1 << 20
KEY_BYTES = 32


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes_raw()


def agree(key: X25519PrivateKey, public: bytes, purpose: str, session: bytes, first: int, second: int) -> bytes:
    """A key that two clients, and nobody else, can compute.

    Args:
        key: ours.
        public: theirs, 32 bytes.
        purpose: keys for different purposes have nothing to do with each other.
        session: of this round and what is bound to it, so that no key serves twice.
        first: client id.
        second: client id; the order matters.

    Returns:
        32 bytes.

    Raises:
        PrivacyError: the public key is none, or one that gives everybody the same secret.
    """
    try:
        secret = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise PrivacyError(f"A client's public key is not valid ({error}).") from error
    info = f"fs-fedmllm secure aggregation 1|{purpose}|{first}|{second}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=session, info=info).derive(secret)


def bound(session: bytes, roster: Mapping[int, Mapping[str, bytes]], threshold: int) -> bytes:
    """What keys are derived under: the session, and the roster and threshold that its client was told.

    Two clients that were told different things agree on no key: neither opens the other's shares.

    Args:
        session: the round's random name.
        roster: client -> its public keys.
        threshold: clients that must be there at the end.

    Returns:
        32 bytes.
    """
    told = [[client, keys["seal"].hex(), keys["mask"].hex()] for client, keys in sorted(roster.items())]
    said = json.dumps(["fs-fedmllm secure aggregation 2", session.hex(), threshold, told]).encode()
    return hashlib.sha256(said).digest()


def mask_salt(bound: bytes, sharers: Iterable[int], context: bytes) -> bytes:
    """What the pairwise masks are derived under: also who shares them, and what the updates were computed from.

    The masks of clients that were sent different adapters do not cancel. So a server that sends all but one of them
    an adapter from which nothing can be learned gets noise, and not the update of that one (Pasquini, Francati and
    Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency", CCS 2022).

    Args:
        bound: see :func:`bound`.
        sharers: the clients that masks are shared with, ourselves too.
        context: round and digest of what the server sent.

    Returns:
        32 bytes.
    """
    said = bound + json.dumps(sorted(sharers)).encode() + b"|" + context
    return hashlib.sha256(b"fs-fedmllm masks|" + said).digest()


def commitment(seed: bytes, bound: bytes) -> bytes:
    """What lets the server check a seed that it puts together from shares; it tells nothing about 32 random bytes."""
    return hashlib.sha256(b"fs-fedmllm self mask|" + bound + seed).digest()


def share_commitment(kind: str, dealer: int, holder: int, share: bytes, bound: bytes) -> bytes:
    """What lets everybody check a share when it is given out; it tells nothing about 521 random bits."""
    said = f"fs-fedmllm share|{kind}|{dealer}|{holder}|".encode()
    return hashlib.sha256(said + bound + share).digest()


def seal(key: bytes, plain: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate one message; a key must serve one message only."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), plain, about)


def unseal(key: bytes, sealed: bytes, about: bytes) -> bytes:
    """What :func:`seal` sealed.

    Raises:
        PrivacyError: it was changed on the way.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, about)
    except InvalidTag as error:
        raise PrivacyError(
            "A share does not come from the client that it names, or that client was told of other clients than this "
            "one; the round cannot go on."
        ) from error


def apply_mask(vector: np.ndarray, seed: bytes, *, negative: bool = False) -> None:
    """Add a mask to a vector of 32-bit words, in place, modulo 2^32.

    Args:
        vector: uint32, shape (words,).
        seed: 32 bytes; the mask is AES-256's counter mode under it, so it is uniform to all who do not know it.
        negative: subtract it instead.
    """
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    for start in range(0, len(vector), _CHUNK):
        part = vector[start : start + _CHUNK]
        mask = np.frombuffer(stream.update(bytes(4 * len(part))), dtype="<u4")
        if negative:
            np.subtract(part, mask, out=part)
        else:
            np.add(part, mask, out=part)
