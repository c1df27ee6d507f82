"""The order of events of asynchronous rounds, by hand, and what holds for every order."""

from __future__ import annotations

import pytest

from fs_fedmllm import config as schema
from fs_fedmllm.rounds.in_flight import InFlight, Job, by_client, planned_rounds, seconds_of, staleness_weight
from fs_fedmllm.rounds.schedule import round_clients


def config_of(clients: int, buffer: int, seconds: list, rounds: int = 5, sampled: int = -1, **async_) -> schema.Config:
    return schema.from_mapping(
        {
            "data": {"type": "digits_triage", "splitter": "fedmllm_aligned", "splitter_args": [{"alpha": 5.0}]},
            "federate": {"client_num": clients, "sample_client_num": sampled, "total_round_num": rounds},
            "fedmllm": {"async": {"buffer": buffer, "seconds": seconds, **async_}, "train": {"lr_horizon": 500}},
        }
    )


def told(config: schema.Config) -> list[tuple[float, list[tuple[int, int]]]]:
    """Of each round, when it ends and its updates, (client, version)."""
    return [(r.clock, [(job.client, job.version) for job in r.jobs]) for r in planned_rounds(config, {})]


def test_three_clients_of_different_speeds_by_hand() -> None:
    """Client 1 takes a second, client 2 two and client 3 three; a step for two updates."""
    assert told(config_of(3, 2, [1, 2, 3])) == [
        (2.0, [(1, 0), (2, 0)]),  # client 1 came at 1 and waits
        (3.0, [(1, 1), (3, 0)]),  # both at 3; client 3 is a step behind
        (4.0, [(1, 2), (2, 1)]),
        (6.0, [(1, 3), (2, 3)]),  # client 1 at 5; at 6 clients 2 and 3, of whom 2 is first
        (7.0, [(1, 4), (3, 2)]),  # client 3 has been there since 6, and is two steps behind
    ]


def test_too_old_updates_are_dropped_and_their_clients_begin_anew() -> None:
    config = config_of(3, 2, [1, 1, 7], rounds=9, max_staleness=2)
    rounds = list(planned_rounds(config, {}))
    assert [(r.clock, r.dropped) for r in rounds[:7]] == [(float(t), 0) for t in range(1, 8)]
    # At 7 clients 1 and 2 fill the buffer; client 3, seven steps behind, comes after it in vain, and is sent the
    # adapter of round 7.
    assert (rounds[7].clock, rounds[7].dropped, rounds[7].sent) == (8.0, 1, 3)
    assert [job.client for job in rounds[7].jobs] == [1, 2] and rounds[7].versions == 1
    assert max(r.versions for r in rounds) <= 2


def test_an_idle_client_takes_the_place_of_one_that_has_come() -> None:
    """Four clients, two at once: whoever comes is replaced by one that has not been in this buffer."""
    rounds = list(planned_rounds(config_of(4, 2, [1, 5, 1, 5], rounds=30, sampled=2), {}))
    assert all(len({job.client for job in r.jobs}) == 2 for r in rounds)
    pairs = [(job.client, job.version) for r in rounds for job in r.jobs]
    assert len(set(pairs)) == len(pairs)  # nobody trains one version twice
    assert {client for client, _ in pairs} == {1, 2, 3, 4}


def test_a_trace_gives_each_version_its_time() -> None:
    chosen = schema.AsyncConfig(buffer=1, seconds=[2, [1, 10]])
    assert [seconds_of(chosen, 1, v) for v in range(3)] == [2.0, 2.0, 2.0]
    assert [seconds_of(chosen, 2, v) for v in range(3)] == [1.0, 10.0, 1.0]
    assert seconds_of(schema.AsyncConfig(buffer=1), 7, 3) == 1.0
    assert told(config_of(2, 2, [2, [1, 10]], rounds=3)) == [
        (2.0, [(1, 0), (2, 0)]), (12.0, [(1, 1), (2, 1)]), (14.0, [(1, 2), (2, 2)]),
    ]  # fmt: skip


def test_weights_of_staleness_are_the_papers() -> None:
    polynomial, constant = schema.AsyncConfig(buffer=1), schema.AsyncConfig(buffer=1, weight="constant")
    assert [staleness_weight(polynomial, s) for s in (0, 1, 3)] == pytest.approx([1, 2**-0.5, 0.5])
    assert staleness_weight(polynomial, 0) == 1.0
    assert staleness_weight(schema.AsyncConfig(buffer=1, exponent=2), 1) == 0.25
    assert [staleness_weight(constant, s) for s in (0, 9)] == [1.0, 1.0]


@pytest.mark.parametrize("sampled", [10, 4])
def test_equal_speeds_and_a_buffer_of_all_are_the_synchronous_draw(sampled: int) -> None:
    config = config_of(10, sampled, [], rounds=6, sampled=sampled)
    expected = [(float(v + 1), [(c, v) for c in round_clients(config, v)]) for v in range(6)]
    assert told(config) == expected


def test_a_buffer_of_all_clients_is_the_synchronous_round_at_any_speeds() -> None:
    rounds = told(config_of(5, 5, [3, 1, 4, 1, 5], rounds=3))
    assert rounds == [(5.0 * (v + 1), [(c, v) for c in range(1, 6)]) for v in range(3)]


def test_a_buffer_that_cannot_be_filled_ends_with_whoever_came() -> None:
    """Places of refused updates are asked for again until nobody is left who has not tried."""
    flight = InFlight(config_of(3, 3, [1, 1, 2]), {})
    assert flight.begin(0) == [1, 2, 3]
    assert [job.client for job in flight.arrivals(3)] == [1, 2, 3]
    assert flight.arrivals(1) == [] and flight.clock == 2.0
    assert flight.begin(1) == [1, 2, 3]


def test_what_is_needed_is_bounded_by_the_staleness() -> None:
    """However slow a client is, so many earlier versions are kept and no more; and one for all that have it."""
    config = config_of(10, 1, [1] * 8 + [37, 90], rounds=300, max_staleness=3)
    assert max(r.versions for r in planned_rounds(config, {})) <= 3


def test_jobs_come_by_time_and_then_by_client() -> None:
    jobs = [Job(2.0, 1, 0), Job(1.0, 3, 0), Job(1.0, 2, 5)]
    assert sorted(jobs) == [jobs[2], jobs[1], jobs[0]]
    assert by_client(jobs) == [jobs[0], jobs[2], jobs[1]]
