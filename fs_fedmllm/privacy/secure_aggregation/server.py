"""The server's side of secure aggregation: it adds up what it cannot read, and takes the masks off the sum."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fs_fedmllm.errors import PrivacyError, TooFewError
from fs_fedmllm.privacy.secure_aggregation import masks, shamir
from fs_fedmllm.privacy.secure_aggregation.client import Dealt, pair_seed


class SecureServer:
    """The server in one round.

    Args:
        threshold: how many clients must be there at the end; above half of those that send keys.
        words: length of a client's vector.
        context: what the clients bind their masks to, see :func:`masks.mask_salt`.

    Attributes:
        session: the round's random name.
        roster: client -> public keys.
        sharers: clients that shared their secrets; masks are between these.
        survivors: clients whose masked update is in the sum.
    """

    def __init__(self, threshold: int, words: int, context: bytes = b""):
        self.session = secrets.token_bytes(32)
        self.threshold = threshold
        self.words = words
        self.roster: dict[int, dict[str, bytes]] = {}
        self.sharers: list[int] = []
        self.survivors: list[int] = []
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._context = context
        self._commitments: dict[int, bytes] = {}
        self._share_commitments: dict[int, dict[int, bytes]] = {}
        self._opened: np.ndarray | None = None
        self._total = np.zeros(words, dtype=np.uint32)
        self._shares: dict[str, dict[int, dict[int, int]]] = {"seed": {}, "key": {}}
        self._helpers: set[int] = set()

    def _enough(self, count: int, what: str) -> None:
        if count < self.threshold:
            raise TooFewError(
                f"Secure aggregation: {count} of {len(self.roster)} clients {what}, and the threshold is "
                f"{self.threshold}. Nothing of this round was opened. Start the same command again when the clients "
                "are back, or lower fedmllm.privacy.secure_aggregation.threshold."
            )

    def add_keys(self, client: int, keys: Mapping[str, bytes]) -> None:
        """Take a client's public keys.

        Raises:
            PrivacyError: they are not two keys of 32 bytes.
        """
        if set(keys) != {"seal", "mask"} or any(len(key) != masks.KEY_BYTES for key in keys.values()):
            raise PrivacyError(f"Client {client} sent no valid public keys.")
        self.roster[client] = dict(keys)

    def close_keys(self) -> None:
        """Nobody joins from here on.

        Raises:
            PrivacyError: too few did.
        """
        self._enough(len(self.roster), "sent keys")

    def add_shares(self, client: int, dealt: Dealt) -> None:
        """Take a client's sealed shares for the others, and its commitments.

        Raises:
            PrivacyError: they are not one for each other client.
        """
        sealed, others = dealt.sealed, set(self.roster) - {client}
        sound = client in self.roster and set(sealed) == others and set(dealt.shares) == set(self.roster)
        sizes = {len(data) for data in sealed.values()} | {2 * shamir.WIDTH + 16}
        committed = {len(data) for data in dealt.shares.values()} | {64}
        if not sound or len(dealt.commitment) != 32 or len(sizes) != 1 or len(committed) != 1:
            raise PrivacyError(f"Client {client} did not send one share for each of the others.")
        self._sealed[client] = dict(sealed)
        self._commitments[client] = dealt.commitment
        self._share_commitments[client] = dict(dealt.shares)

    def close_shares(self) -> None:
        """Who has not shared by now has dropped out, and masks nothing.

        Raises:
            PrivacyError: too few are left.
        """
        self.sharers = sorted(self._sealed)
        self._enough(len(self.sharers), "shared their secrets")

    def sealed_for(self, client: int) -> dict[int, bytes]:
        """The shares that the others sealed for a client."""
        return {other: self._sealed[other][client] for other in self.sharers if other != client}

    def commitments_for(self, client: int) -> dict[int, bytes]:
        """What the others committed to for a client."""
        return {other: self._share_commitments[other][client] for other in self.sharers if other != client}

    def add_masked(self, client: int, vector: np.ndarray) -> None:
        """Add a masked update to the sum; it is not kept.

        Raises:
            PrivacyError: it is not one of this round's.
        """
        if client not in self.sharers or client in self.survivors or vector.shape != (self.words,):
            raise PrivacyError(f"Client {client} sent no masked update of this round.")
        np.add(self._total, vector.view(np.uint32), out=self._total)
        self.survivors.append(client)

    def close_masked(self) -> list[int]:
        """The clients whose update is in the sum, ascending.

        Raises:
            PrivacyError: too few are left.
        """
        self.survivors.sort()
        self._enough(len(self.survivors), "sent a masked update")
        return self.survivors

    def add_unmask(self, client: int, answer: Mapping[str, Mapping[int, bytes]]) -> None:
        """Take a client's shares.

        Raises:
            PrivacyError: they are not exactly those that were asked for, or one is not what its dealer committed to.
        """
        alive, gone = set(self.survivors), set(self.sharers) - set(self.survivors)
        sound = client in alive and set(answer) == {"seed", "key"}
        if not sound or set(answer["seed"]) != alive or set(answer["key"]) != gone:
            raise PrivacyError(f"Client {client} did not send the shares that it was asked for.")
        bound = self._bound()
        for kind, at in (("key", 0), ("seed", 32)):
            for other, data in sorted(answer[kind].items()):
                value = int.from_bytes(data, "big")
                if len(data) != shamir.WIDTH or value >= shamir.PRIME:
                    raise PrivacyError(f"Client {client} sent a share that is none.")
                expected = self._share_commitments[other][client][at : at + 32]
                if masks.share_commitment(kind, other, client, data, bound) != expected:
                    raise PrivacyError(f"Client {client} sent a wrong share of client {other}'s {kind}.")
        for kind, shares in answer.items():  # all of them are right
            for other, data in shares.items():
                self._shares[kind].setdefault(other, {})[client] = int.from_bytes(data, "big")
        self._helpers.add(client)

    def total(self) -> np.ndarray:
        """The sum of the survivors' vectors modulo 2^32.

        Returns:
            uint32, shape (words,): bit for bit the sum of what they encoded.

        Raises:
            TooFewError: too few clients helped.
            PrivacyError: a client split its own secrets into shares that do not fit one another.
        """
        if self._opened is not None:
            return self._opened
        self._enough(len(self._helpers), "helped to unmask")
        total, bound = self._total.copy(), self._bound()
        salt = masks.mask_salt(bound, self.sharers, self._context)
        for client in self.survivors:
            seed = self._secret("seed", client)
            if masks.commitment(seed, bound) != self._commitments[client]:
                raise PrivacyError(_DEALT_WRONGLY.format(client))
            masks.apply_mask(total, seed, negative=True)
        for client in sorted(set(self.sharers) - set(self.survivors)):
            key = X25519PrivateKey.from_private_bytes(self._secret("key", client))
            if masks.public_bytes(key) != self.roster[client]["mask"]:
                raise PrivacyError(_DEALT_WRONGLY.format(client))
            for other in self.survivors:
                # The survivor added its half of this mask; the dropped client's own half cancels it.
                seed = pair_seed(key, self.roster[other]["mask"], salt, client, other)
                masks.apply_mask(total, seed, negative=client > other)
        self._opened = total
        return total

    def state(self) -> tuple[dict[str, Any], np.ndarray]:
        """What a server that is started again needs to go on in this very session, once everybody has shared.

        Returns:
            JSON values; and the sum so far, uint32: masked, or opened if ``total`` has given it.
        """
        head = {
            "session": self.session.hex(),
            "threshold": self.threshold,
            "words": self.words,
            "context": self._context.hex(),
            "roster": {c: {name: key.hex() for name, key in keys.items()} for c, keys in self.roster.items()},
            "sharers": self.sharers,
            "survivors": self.survivors,
            "sealed": {c: _to_hex(shares) for c, shares in self._sealed.items()},
            "commitments": _to_hex(self._commitments),
            "share_commitments": {c: _to_hex(shares) for c, shares in self._share_commitments.items()},
            "opened": self._opened is not None,
        }
        return head, self._total if self._opened is None else self._opened

    @classmethod
    def restored(cls, head: Mapping[str, Any], total: np.ndarray) -> SecureServer:
        """The server as it was when :meth:`state` was asked.

        Raises:
            ValueError: this is no such state (KeyError, TypeError and AttributeError likewise).
        """
        server = cls(int(head["threshold"]), int(head["words"]), bytes.fromhex(head["context"]))
        server.session = bytes.fromhex(head["session"])
        server.roster = {int(c): _from_hex(keys) for c, keys in head["roster"].items()}
        server.sharers = [int(client) for client in head["sharers"]]
        server.survivors = [int(client) for client in head["survivors"]]
        server._sealed = {int(c): _by_client(shares) for c, shares in head["sealed"].items()}
        server._commitments = _by_client(head["commitments"])
        server._share_commitments = {int(c): _by_client(shares) for c, shares in head["share_commitments"].items()}
        if total.shape != (server.words,) or total.dtype != np.uint32:
            raise ValueError("its sum has another length or type")
        if head["opened"]:
            server._opened = total
        else:
            server._total = total
        return server

    def _bound(self) -> bytes:
        return masks.bound(self.session, self.roster, self.threshold)

    def _secret(self, kind: str, client: int) -> bytes:
        held = self._shares[kind][client]
        chosen = {holder: held[holder] for holder in sorted(held)[: self.threshold]}
        value = shamir.combine(chosen)
        if value >= 2 ** (8 * masks.KEY_BYTES):
            raise PrivacyError(_DEALT_WRONGLY.format(client))
        return value.to_bytes(masks.KEY_BYTES, "big")


#: Every share is what its dealer committed to by the time that they are put together.
_DEALT_WRONGLY = (
    "Client {0} split its secrets into shares that do not fit one another, so the round's sum cannot be opened. Start "
    "a run without client {0}."
)


def _to_hex(values: Mapping[int, bytes]) -> dict[int, str]:
    return {client: data.hex() for client, data in values.items()}


def _from_hex(values: Mapping[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(data) for name, data in values.items()}


def _by_client(values: Mapping[str, str]) -> dict[int, bytes]:
    return {int(client): bytes.fromhex(data) for client, data in values.items()}
