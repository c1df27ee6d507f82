"""The server's side of secure aggregation: it adds up what it cannot read, and takes the masks off the sum."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fs_fedmllm.errors import PrivacyError
from fs_fedmllm.privacy.secure_aggregation import masks, shamir
from fs_fedmllm.privacy.secure_aggregation.client import pair_seed


class SecureServer:
    """The server in one round.

    Args:
        threshold: how many clients must be there at the end; above half of those that send keys.
        words: length of a client's vector.

    Attributes:
        session: the round's random name.
        roster: client -> public keys.
        sharers: clients that shared their secrets; masks are between these.
        survivors: clients whose masked update is in the sum.
    """

    def __init__(self, threshold: int, words: int):
        self.session = secrets.token_bytes(32)
        self.threshold = threshold
        self.words = words
        self.roster: dict[int, dict[str, bytes]] = {}
        self.sharers: list[int] = []
        self.survivors: list[int] = []
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._commitments: dict[int, bytes] = {}
        self._total = np.zeros(words, dtype=np.uint32)
        self._shares: dict[str, dict[int, dict[int, int]]] = {"seed": {}, "key": {}}
        self._helpers: set[int] = set()

    def _enough(self, count: int, what: str) -> None:
        if count < self.threshold:
            raise PrivacyError(
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

    def add_shares(self, client: int, sealed: Mapping[int, bytes], commitment: bytes) -> None:
        """Take a client's sealed shares for the others.

        Raises:
            PrivacyError: they are not one for each other client.
        """
        sound = client in self.roster and set(sealed) == set(self.roster) - {client}
        if not sound or len(commitment) != 32 or any(len(data) != 2 * shamir.WIDTH + 16 for data in sealed.values()):
            raise PrivacyError(f"Client {client} did not send one share for each of the others.")
        self._sealed[client] = dict(sealed)
        self._commitments[client] = commitment

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
            PrivacyError: they are not exactly those that were asked for.
        """
        alive, gone = set(self.survivors), set(self.sharers) - set(self.survivors)
        sound = client in alive and set(answer) == {"seed", "key"}
        if not sound or set(answer["seed"]) != alive or set(answer["key"]) != gone:
            raise PrivacyError(f"Client {client} did not send the shares that it was asked for.")
        for kind, shares in answer.items():
            for other, data in shares.items():
                value = int.from_bytes(data, "big")
                if len(data) != shamir.WIDTH or value >= shamir.PRIME:
                    raise PrivacyError(f"Client {client} sent a share that is none.")
                self._shares[kind].setdefault(other, {})[client] = value
        self._helpers.add(client)

    def total(self) -> np.ndarray:
        """The sum of the survivors' vectors modulo 2^32.

        Returns:
            uint32, shape (words,): bit for bit the sum of what they encoded.

        Raises:
            PrivacyError: too few clients helped, or their shares do not fit.
        """
        self._enough(len(self._helpers), "helped to unmask")
        total = self._total.copy()
        for client in self.survivors:
            seed = self._secret("seed", client)
            if masks.commitment(seed, self.session) != self._commitments[client]:
                raise PrivacyError(f"The shares of client {client}'s mask do not fit; somebody sent a wrong one.")
            masks.apply_mask(total, seed, negative=True)
        for client in sorted(set(self.sharers) - set(self.survivors)):
            key = X25519PrivateKey.from_private_bytes(self._secret("key", client))
            if masks.public_bytes(key) != self.roster[client]["mask"]:
                raise PrivacyError(f"The shares of client {client}'s key do not fit; somebody sent a wrong one.")
            for other in self.survivors:
                # The survivor added its half of this mask; the dropped client's own half cancels it.
                seed = pair_seed(key, self.roster[other]["mask"], self.session, client, other)
                masks.apply_mask(total, seed, negative=client > other)
        return total

    def _secret(self, kind: str, client: int) -> bytes:
        held = self._shares[kind][client]
        chosen = {holder: held[holder] for holder in sorted(held)[: self.threshold]}
        value = shamir.combine(chosen)
        if value >= 2 ** (8 * masks.KEY_BYTES):
            raise PrivacyError(f"The shares of client {client} do not fit; somebody sent a wrong one.")
        return value.to_bytes(masks.KEY_BYTES, "big")
