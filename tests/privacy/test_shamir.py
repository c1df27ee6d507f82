"""Secret sharing against values worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from fs_fedmllm.privacy.secure_aggregation.shamir import PRIME, combine, split


def test_hand_values() -> None:
    """1234 + 166 x + 94 x^2, the textbook example: 1494, 1942, 2578, 3402, 4414, 5614."""
    coefficients = iter([166, 94])
    shares = split(1234, 3, range(1, 7), lambda _: next(coefficients))
    assert shares == {1: 1494, 2: 1942, 3: 2578, 4: 3402, 5: 4414, 6: 5614}
    for chosen in itertools.combinations(shares, 3):
        assert combine({holder: shares[holder] for holder in chosen}) == 1234
    assert combine(shares) == 1234


def test_arithmetic_is_modulo_the_prime() -> None:
    shares = split(PRIME - 1, 2, [1, 2], lambda _: 5)  # -1 + 5 x
    assert shares == {1: 4, 2: 9}
    assert combine(shares) == PRIME - 1


def test_too_few_shares_fit_every_secret() -> None:
    """With t - 1 shares, each secret has exactly one last share: they rule nothing out."""
    shares = split(42, 3, [1, 2, 5])
    known = {1: shares[1], 2: shares[2]}
    # f(0) = 3 f(1) - 3 f(2) + f(3), so this last share at 3 would make the secret 7.
    last = (7 - 3 * known[1] + 3 * known[2]) % PRIME
    assert combine({**known, 3: last}) == 7
    assert combine(known) != 42


def test_shares_are_fresh() -> None:
    assert split(1, 2, [1, 2]) != split(1, 2, [1, 2])


@pytest.mark.parametrize(
    ("secret", "threshold", "holders"), [(PRIME, 1, [1]), (1, 3, [1, 2]), (1, 1, [0]), (1, 1, [2, 2])]
)
def test_impossible_arguments(secret: int, threshold: int, holders: list[int]) -> None:
    with pytest.raises(ValueError, match=r"range|between"):
        split(secret, threshold, holders)
