"""The client's side of secure aggregation; one object per client and round, each step once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.privacy.secure_aggregation import masks, shamir

#: Public keys of a client: for sealing shares, and for pairwise masks.
PublicKeys = Mapping[str, bytes]


@dataclass(frozen=True)
class Dealt:
    """What a client gives away of its secrets.

    Attributes:
        sealed: client -> its two shares, sealed for it.
        commitment: to the seed of our own mask.
        shares: client, ourselves too -> commitments to its share of the key and to that of the seed, 64 bytes.
    """

    sealed: dict[int, bytes]
    commitment: bytes
    shares: dict[int, bytes]


class SecureClient:
    """A client in one round. Its secrets are fresh, live here, and are never written anywhere.

    Args:
        client: id, from 1.

    The steps, in order: :meth:`keys`, :meth:`shares`, :meth:`masked`, :meth:`unmask`. A step that is asked for twice,
    or out of order, is an error: answering an ``unmask`` twice could hand out both kinds of shares of one client.
    """

    def __init__(self, client: int):
        self.client = client
        self._seal_key = X25519PrivateKey.generate()
        self._mask_key = X25519PrivateKey.generate()
        self._self_seed = secrets.token_bytes(masks.KEY_BYTES)
        self._next = "keys"

    def _step(self, name: str, following: str) -> None:
        if self._next != name:
            raise PrivacyError(
                f"Client {self.client} was asked for {name!r} of secure aggregation, but its next step is "
                f"{self._next!r}; it does not answer."
            )
        self._next = following

    def keys(self) -> dict[str, bytes]:
        """Two public keys: ``seal`` and ``mask``."""
        self._step("keys", "shares")
        return {"seal": masks.public_bytes(self._seal_key), "mask": masks.public_bytes(self._mask_key)}

    def shares(self, session: bytes, roster: Mapping[int, PublicKeys], threshold: int) -> Dealt:
        """Split the secrets among the others.

        Args:
            session: the round's random name, at least 16 bytes.
            roster: client -> public keys, of everybody who sent some.
            threshold: how many must be there at the end.

        Raises:
            PrivacyError: the roster is not one that protects anybody.
        """
        self._step("shares", "masked")
        own = {"seal": masks.public_bytes(self._seal_key), "mask": masks.public_bytes(self._mask_key)}
        if dict(roster.get(self.client, {})) != own:
            raise PrivacyError(f"The roster does not hold the keys that client {self.client} sent.")
        if any(type(client) is not int or client < 1 for client in roster):
            raise PrivacyError("The roster names something that is not a client.")
        everyone = [key for keys in roster.values() for key in keys.values()]
        if len(set(everyone)) != len(everyone):
            raise PrivacyError("Two public keys of the roster are the same; somebody plays several clients.")
        if len(session) < 16:
            raise PrivacyError("The round's session is too short to be unique.")
        # Above half: two groups of that size overlap, so a lying server cannot ask one for this and one for that.
        if not len(roster) / 2 < threshold <= len(roster) or threshold < 2:
            raise PrivacyError(
                f"A threshold of {threshold} among {len(roster)} clients does not protect an update; it must be above "
                "half of them, and at least 2."
            )
        self._roster, self._threshold = dict(roster), threshold
        self._bound = masks.bound(session, roster, threshold)
        holders = sorted(roster)
        of_key = shamir.split(int.from_bytes(self._mask_key.private_bytes_raw(), "big"), threshold, holders)
        of_seed = shamir.split(int.from_bytes(self._self_seed, "big"), threshold, holders)
        self._kept = {self.client: (of_key[self.client], of_seed[self.client])}
        sealed, commitments = {}, {}
        for holder in holders:
            pair = _as_bytes(of_key[holder], of_seed[holder])
            commitments[holder] = _committed(self.client, holder, pair, self._bound)
            if holder != self.client:
                key = masks.agree(self._seal_key, roster[holder]["seal"], "seal", self._bound, self.client, holder)
                sealed[holder] = masks.seal(key, b"".join(pair), _about(self._bound, self.client, holder))
        return Dealt(sealed, masks.commitment(self._self_seed, self._bound), commitments)

    def masked(
        self,
        sealed: Mapping[int, bytes],
        vector: np.ndarray,
        commitments: Mapping[int, bytes],
        context: bytes = b"",
    ) -> np.ndarray:
        """Hide the update.

        Args:
            sealed: client -> the shares that it sealed for us; masks are shared with exactly these clients.
            vector: uint32, the encoded update.
            commitments: client -> what it committed to for us.
            context: round and digest of what the update was computed from.

        Returns:
            uint32, of the same length, uniform to everybody who does not know the masks.

        Raises:
            PrivacyError: too few clients are left, or a share was tampered with.
        """
        self._step("masked", "unmask")
        if not set(sealed) <= set(self._roster) - {self.client}:
            raise PrivacyError("Shares came from clients that are not on the roster.")
        if 1 + len(sealed) < self._threshold:
            raise PrivacyError(
                f"{1 + len(sealed)} clients are left of {len(self._roster)}, below the threshold of "
                f"{self._threshold}; client {self.client} sends nothing."
            )
        for other, data in sealed.items():
            key = masks.agree(self._seal_key, self._roster[other]["seal"], "seal", self._bound, other, self.client)
            try:
                plain = masks.unseal(key, data, _about(self._bound, other, self.client))
            except PrivacyError as error:
                raise PrivacyError(f"The shares of client {other} cannot be opened. {error}") from error
            pair = plain[: shamir.WIDTH], plain[shamir.WIDTH :]
            if len(plain) != 2 * shamir.WIDTH or commitments.get(other) != _committed(
                other, self.client, pair, self._bound
            ):
                raise PrivacyError(f"The shares of client {other} are not those that it committed to.")
            self._kept[other] = (int.from_bytes(pair[0], "big"), int.from_bytes(pair[1], "big"))
        hidden = vector.astype(np.uint32, copy=True)
        masks.apply_mask(hidden, self._self_seed)
        salt = masks.mask_salt(self._bound, [self.client, *sealed], context)
        for other in sealed:
            seed = pair_seed(self._mask_key, self._roster[other]["mask"], salt, self.client, other)
            masks.apply_mask(hidden, seed, negative=self.client > other)
        return hidden

    def unmask(self, survivors: list[int]) -> dict[str, dict[int, bytes]]:
        """Shares that take the masks off the sum.

        Args:
            survivors: the clients whose masked update the server has.

        Returns:
            ``seed``: survivor -> share of its own mask's seed; ``key``: dropped client -> share of its mask key.

        Raises:
            PrivacyError: these survivors would open more than a sum over ``threshold`` clients.
        """
        self._step("unmask", "nothing")
        alive = set(survivors)
        if len(alive) != len(survivors) or not alive <= set(self._kept) or self.client not in alive:
            raise PrivacyError("The list of survivors is not one of this round's.")
        if len(alive) < self._threshold:
            raise PrivacyError(
                f"{len(alive)} of {len(self._roster)} clients sent an update, below the threshold of "
                f"{self._threshold}; client {self.client} unmasks nothing."
            )
        answer: dict[str, dict[int, bytes]] = {"seed": {}, "key": {}}
        for other, (of_key, of_seed) in sorted(self._kept.items()):
            kind, share = ("seed", of_seed) if other in alive else ("key", of_key)
            answer[kind][other] = share.to_bytes(shamir.WIDTH, "big")
        return answer


def pair_seed(key: X25519PrivateKey, public: bytes, salt: bytes, client: int, other: int) -> bytes:
    """Seed of the mask that two clients share; the one with the smaller id adds it, the other subtracts it."""
    return masks.agree(key, public, "mask", salt, min(client, other), max(client, other))


def _as_bytes(of_key: int, of_seed: int) -> tuple[bytes, bytes]:
    return of_key.to_bytes(shamir.WIDTH, "big"), of_seed.to_bytes(shamir.WIDTH, "big")


def _committed(dealer: int, holder: int, pair: tuple[bytes, bytes], bound: bytes) -> bytes:
    kinds = zip(("key", "seed"), pair, strict=True)
    return b"".join(masks.share_commitment(kind, dealer, holder, share, bound) for kind, share in kinds)


def _about(bound: bytes, sender: int, receiver: int) -> bytes:
    return bound + f"|{sender}|{receiver}".encode()
