"""Which rows a client trains on, in which order."""

import itertools

import numpy as np
import pytest

from fs_fedmllm.rounds.batches import (
    STREAM_DROPOUT,
    STREAM_ORDER,
    STREAM_SAMPLING,
    plan_batches,
    update_generator,
)


def plan(rows, *, amount=1, unit="epoch", batch_size=4, seed=0, drop_tail=False):
    rng = np.random.default_rng(seed)
    return plan_batches(rows, amount=amount, unit=unit, batch_size=batch_size, rng=rng, drop_tail=drop_tail)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 43])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_row_once_an_epoch(rows, batch_size, epochs):
    batches = plan(rows, amount=epochs, batch_size=batch_size)
    steps = -(-rows // batch_size)
    assert len(batches) == epochs * steps
    for epoch in range(epochs):
        part = batches[epoch * steps : (epoch + 1) * steps]
        assert sorted(itertools.chain(*part)) == list(range(rows))
        assert [len(batch) for batch in part[:-1]] == [batch_size] * (steps - 1)


def test_each_pass_has_an_order_of_its_own():
    batches = plan(40, amount=2, batch_size=40)
    assert batches[0] != batches[1]
    assert batches[0] != list(range(40))


@pytest.mark.parametrize("amount", [1, 5, 11, 12, 30])
def test_steps_are_counted_exactly_and_rows_are_used_evenly(amount):
    batches = plan(21, amount=amount, unit="batch")  # 6 steps a pass, the last of 1 row
    assert len(batches) == amount
    used = np.bincount(list(itertools.chain(*batches)), minlength=21)
    assert used.max() - used.min() <= 1


def test_a_client_with_fewer_rows_than_a_batch_uses_what_it_has():
    assert [sorted(batch) for batch in plan(3, amount=5, unit="batch")] == [[0, 1, 2]] * 5


@pytest.mark.parametrize(("rows", "steps"), [(7, 1), (8, 2), (10, 2), (43, 10), (3, 1), (1, 1)])
def test_the_authors_drop_the_incomplete_step(rows, steps):
    """N = max(n // 4, 1): the last n mod 4 rows are skipped, unless they are all there is."""
    batches = plan(rows, drop_tail=True)
    assert len(batches) == steps
    used = list(itertools.chain(*batches))
    assert len(set(used)) == len(used) == (rows if rows < 4 else rows - rows % 4)


def test_dropping_the_tail_also_counts_steps():
    batches = plan(10, amount=5, unit="batch", drop_tail=True)
    assert [len(batch) for batch in batches] == [4] * 5


@pytest.mark.parametrize("unit", ["batch", "epoch"])
def test_plans_are_a_function_of_the_seed(unit):
    assert plan(30, amount=3, unit=unit, seed=1) == plan(30, amount=3, unit=unit, seed=1)
    assert plan(30, amount=3, unit=unit, seed=1) != plan(30, amount=3, unit=unit, seed=2)


def test_a_longer_plan_starts_with_the_shorter_one():
    assert plan(30, amount=20, unit="batch")[:7] == plan(30, amount=7, unit="batch")


def test_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy()
    plan(30)
    assert np.array_equal(before, np.random.get_state()[1])


def test_no_rows():
    with pytest.raises(ValueError, match="without rows"):
        plan(0)


def test_generators_are_separate_for_every_purpose_round_and_client():
    keys = itertools.product((0, 1), (STREAM_SAMPLING, STREAM_ORDER, STREAM_DROPOUT), range(3), range(3))
    draws = [tuple(update_generator(*key).integers(2**31, size=2).tolist()) for key in keys]
    assert len(set(draws)) == len(draws)
    assert update_generator(7, STREAM_ORDER, 2, 5).random() == update_generator(7, STREAM_ORDER, 2, 5).random()


def test_the_order_of_a_turn_is_pinned():
    """Another draw than this one would silently change every published run."""
    rng = update_generator(0, STREAM_ORDER, 0, 1)
    batches = plan_batches(6, amount=1, unit="epoch", batch_size=4, rng=rng)
    assert batches == [[1, 0, 5, 3], [4, 2]]
