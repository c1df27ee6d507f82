"""Splitting a secret so that any t of its shares give it back and t - 1 tell nothing (Shamir, CACM 1979).

The secret is the value at 0 of a random polynomial of degree t - 1 over a prime field; a share is its value at the
holder's number. Random coefficients come from the operating system.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

#: The field: the Mersenne prime 2^521 - 1, which holds every secret of 32 bytes.
PRIME = 2**521 - 1
#: Bytes of a share.
WIDTH = 66


def split(
    secret: int, threshold: int, holders: Sequence[int], below: Callable[[int], int] = secrets.randbelow
) -> dict[int, int]:
    """Shares of a secret.

    Args:
        secret: in [0, PRIME).
        threshold: shares that give it back, at least 1.
        holders: distinct positive numbers, each below PRIME; at least ``threshold``.
        below: a uniform number from 0 to its argument, without it; tests alone pass another.

    Returns:
        holder -> share.

    Raises:
        ValueError: the arguments are not as above.
    """
    if not 0 <= secret < PRIME or not 1 <= threshold <= len(holders) or len(set(holders)) != len(holders):
        raise ValueError("secret, threshold or holders out of range")
    if not all(0 < holder < PRIME for holder in holders):
        raise ValueError("a holder's number must lie between 0 and the prime")
    coefficients = [secret, *(below(PRIME) for _ in range(threshold - 1))]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):  # Horner
            value = (value * holder + coefficient) % PRIME
        shares[holder] = value
    return shares


def combine(shares: Mapping[int, int]) -> int:
    """The secret, from at least ``threshold`` shares: Lagrange interpolation at 0.

    Args:
        shares: holder -> share. Fewer than the threshold, or a wrong one, give a wrong secret: whoever combines them
            must be able to check it.
    """
    secret = 0
    for holder, share in shares.items():
        numerator = denominator = 1
        for other in shares:
            if other != holder:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - holder) % PRIME
        secret = (secret + share * numerator * pow(denominator, -1, PRIME)) % PRIME
    return secret
