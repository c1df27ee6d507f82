"""The protocol: exact sums, dropouts in every phase, and what the server can see."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from modular import modular_sum
from scipy import stats

from fs_fedmllm.aggregators import RunningMean
from fs_fedmllm.aggregators.norms import l2_norm
from fs_fedmllm.algorithms import OPTIMIZERS, build_server_optimizer
from fs_fedmllm.config.privacy import DPConfig, PrivacyConfig, threshold_of
from fs_fedmllm.config.profiles import profile_switches
from fs_fedmllm.errors import PrivacyError, UpdateError
from fs_fedmllm.privacy.secure_aggregation import client as client_side
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient
from fs_fedmllm.privacy.secure_aggregation.fixed_point import FixedPoint
from fs_fedmllm.privacy.secure_aggregation.in_process import SecureSum
from fs_fedmllm.privacy.secure_aggregation.policy import Policy
from fs_fedmllm.privacy.secure_aggregation.server import SecureServer

WORDS = 37


def vectors(clients, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {c: rng.integers(0, 2**32, WORDS, dtype=np.uint32) for c in clients}


def masked(server: SecureServer, side: SecureClient, vector: np.ndarray) -> np.ndarray:
    return side.masked(server.sealed_for(side.client), vector, server.commitments_for(side.client))


def run(clients, threshold: int, data, *, no_keys=(), no_shares=(), no_masked=(), no_unmask=()):
    """A round in which some clients fall silent; the server at its end."""
    sides = {client: SecureClient(client) for client in clients}
    server = SecureServer(threshold, WORDS)
    for client in clients:
        if client not in no_keys:
            server.add_keys(client, sides[client].keys())
    server.close_keys()
    for client in server.roster:
        if client not in no_shares:
            server.add_shares(client, sides[client].shares(server.session, server.roster, threshold))
    server.close_shares()
    for client in server.sharers:
        if client not in no_masked:
            server.add_masked(client, masked(server, sides[client], data[client]))
    survivors = server.close_masked()
    for client in survivors:
        if client not in no_unmask:
            server.add_unmask(client, sides[client].unmask(survivors))
    return server


@pytest.mark.parametrize("clients", [(1, 2, 3), (2, 5, 9, 11), tuple(range(1, 13))])
def test_the_sum_is_the_plain_sum_bit_for_bit(clients) -> None:
    data = vectors(clients)
    server = run(clients, threshold_of(0.67, len(clients)), data)
    assert np.array_equal(server.total(), modular_sum(list(data.values())))


PHASES = ("no_keys", "no_shares", "no_masked", "no_unmask")


@pytest.mark.parametrize("phase", PHASES)
def test_any_dropout_down_to_the_threshold(phase: str) -> None:
    clients, threshold = (1, 2, 3, 4, 5), 3
    data = vectors(clients)
    for gone in (set(g) for size in (1, 2) for g in itertools.combinations(clients, size)):
        server = run(clients, threshold, data, **{phase: gone})
        # Who falls silent after its masked update is in the sum all the same.
        counted = clients if phase == "no_unmask" else [c for c in clients if c not in gone]
        assert server.survivors == list(counted)
        assert np.array_equal(server.total(), modular_sum([data[c] for c in counted]))


def test_dropouts_in_several_phases_at_once() -> None:
    clients = tuple(range(1, 10))
    data = vectors(clients)
    server = run(clients, 5, data, no_keys={1}, no_shares={4}, no_masked={2}, no_unmask={9})
    assert np.array_equal(server.total(), modular_sum([data[c] for c in (3, 5, 6, 7, 8, 9)]))


@pytest.mark.parametrize(
    ("phase", "said"),
    list(zip(PHASES, ("sent keys", "shared their secrets", "a masked update", "to unmask"), strict=True)),
)
def test_below_the_threshold_the_round_fails_by_name(phase: str, said: str) -> None:
    clients = (1, 2, 3, 4, 5)
    data = vectors(clients)
    with pytest.raises(PrivacyError, match=f"2 of [0-9] clients.*{said}.*Nothing of this round was opened"):
        run(clients, 3, data, **{phase: {2, 4, 5}}).total()


def test_below_the_threshold_nothing_can_be_opened() -> None:
    """With t - 1 helpers, what the server can put together is not the seed, and the sum stays noise."""
    clients, threshold = (1, 2, 3, 4), 3
    data = vectors(clients)
    server = run(clients, threshold, data, no_unmask={1, 2})
    from fs_fedmllm.privacy.secure_aggregation import masks, shamir

    for client in clients:
        guess = shamir.combine(server._shares["seed"][client])
        assert masks.commitment((guess % 2**256).to_bytes(32, "big"), server._bound()) != server._commitments[client]
    assert not np.array_equal(server._total, modular_sum(list(data.values())))


def test_one_masked_update_is_uniform_to_the_server() -> None:
    """Even of zeros. The mask is AES in counter mode under a key that the server has no share of at that time, added
    modulo 2^32: whoever could tell the result from uniform words could tell AES from random."""
    size = 1 << 17
    side = {c: SecureClient(c) for c in (1, 2, 3)}
    server = SecureServer(2, size)
    for c, s in side.items():
        server.add_keys(c, s.keys())
    for c, s in side.items():
        server.add_shares(c, s.shares(server.session, server.roster, 2))
    server.close_shares()
    seen = masked(server, side[1], np.zeros(size, dtype=np.uint32))
    counts = np.bincount(seen.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.kstest(seen / 2**32, "uniform").pvalue > 1e-4
    other = masked(server, side[2], np.zeros(size, dtype=np.uint32))
    assert abs(np.corrcoef(seen.astype(float), other.astype(float))[0, 1]) < 0.02
    # The pairwise masks alone cancel in the sum; each client's own mask keeps the sum hidden until enough unmask it.
    third = masked(server, side[3], np.zeros(size, dtype=np.uint32))
    assert stats.chisquare(np.bincount((seen + other + third).view(np.uint8), minlength=256)).pvalue > 1e-4


def test_a_client_answers_each_step_once() -> None:
    side = SecureClient(1)
    with pytest.raises(PrivacyError, match="next step is 'keys'"):
        side.unmask([1])
    side.keys()
    with pytest.raises(PrivacyError, match="next step is 'shares'"):
        side.keys()


def ready(clients=(1, 2, 3, 4), threshold: int = 3):
    sides = {client: SecureClient(client) for client in clients}
    server = SecureServer(threshold, WORDS)
    for client, side in sides.items():
        server.add_keys(client, side.keys())
    for client, side in sides.items():
        server.add_shares(client, side.shares(server.session, server.roster, threshold))
    server.close_shares()
    return sides, server


@pytest.mark.parametrize("survivors", [[2, 3, 4], [1, 2], [1, 2, 9], [1, 2, 2, 3]])
def test_no_shares_for_a_list_that_would_open_more(survivors) -> None:
    sides, server = ready()
    masked(server, sides[1], vectors([1])[1])
    with pytest.raises(PrivacyError, match=r"survivors|unmasks nothing"):
        sides[1].unmask(survivors)
    with pytest.raises(PrivacyError, match="does not answer"):  # nor is there a second try
        sides[1].unmask([1, 2, 3])


def test_rosters_that_protect_nobody() -> None:
    def shares(change, threshold: int = 2) -> None:
        sides = {client: SecureClient(client) for client in (1, 2, 3)}
        roster = {client: side.keys() for client, side in sides.items()}
        change(roster)
        sides[1].shares(b"0" * 32, roster, threshold)

    def twice(roster):
        roster[3] = {**roster[2]}

    def another(roster):
        roster[1] = SecureClient(1).keys()

    with pytest.raises(PrivacyError, match="same"):
        shares(twice)
    with pytest.raises(PrivacyError, match="does not hold the keys"):
        shares(another)
    with pytest.raises(PrivacyError, match="threshold of 1 among 3"):
        shares(lambda _: None, 1)
    with pytest.raises(PrivacyError, match="threshold of 2 among 4"):
        shares(lambda roster: roster.update({4: SecureClient(4).keys()}))


def test_tampering_is_found() -> None:
    sides, server = ready()
    sealed = server.sealed_for(1)
    sealed[2] = bytes([sealed[2][0] ^ 1]) + sealed[2][1:]
    with pytest.raises(PrivacyError, match=r"shares of client 2 cannot be opened\. .*does not come from"):
        sides[1].masked(sealed, vectors([1])[1], server.commitments_for(1))
    sides, server = ready()
    sealed = server.sealed_for(1)
    sealed[2], sealed[3] = sealed[3], sealed[2]
    with pytest.raises(PrivacyError, match=r"shares of client 2 cannot be opened\. .*does not come from"):
        sides[1].masked(sealed, vectors([1])[1], server.commitments_for(1))


@pytest.mark.parametrize("kind", ["seed", "key"])
def test_wrong_shares_are_found_their_sender_is_named_and_the_rest_open_the_sum(kind: str) -> None:
    clients = (1, 2, 3, 4, 5)
    sides, server = ready(clients)
    data = vectors(clients)
    for client in (1, 2, 3, 4):  # 5 drops out, so that shares of a key are needed too
        server.add_masked(client, masked(server, sides[client], data[client]))
    survivors = server.close_masked()
    for client in survivors:
        answer = sides[client].unmask(survivors)
        if client != 2:
            server.add_unmask(client, answer)
            continue
        whose = 1 if kind == "seed" else 5
        answer[kind][whose] = bytes([answer[kind][whose][0], answer[kind][whose][1] ^ 1]) + answer[kind][whose][2:]
        with pytest.raises(PrivacyError, match=rf"^Client 2 sent a wrong share of client {whose}'s {kind}\.$"):
            server.add_unmask(2, answer)
    assert np.array_equal(server.total(), modular_sum([data[c] for c in (1, 2, 3, 4)]))


def test_shares_other_than_those_committed_to_are_found_by_whom_they_are_for() -> None:
    sides, server = ready()
    committed = {other: data[::-1] if other == 3 else data for other, data in server.commitments_for(1).items()}
    with pytest.raises(PrivacyError, match="shares of client 3 are not those that it committed to"):
        sides[1].masked(server.sealed_for(1), vectors([1])[1], committed)


def test_secrets_that_were_split_into_shares_that_do_not_fit_name_their_dealer(monkeypatch) -> None:
    split = client_side.shamir.split

    def crooked(secret, threshold, holders):
        return {holder: share + holder**2 for holder, share in split(secret, threshold, holders).items()}

    sides = {client: SecureClient(client) for client in (1, 2, 3)}
    server = SecureServer(2, WORDS)
    for client, side in sides.items():
        server.add_keys(client, side.keys())
    for client, side in sides.items():
        monkeypatch.setattr(client_side.shamir, "split", crooked if client == 3 else split)
        server.add_shares(client, side.shares(server.session, server.roster, 2))
    server.close_shares()
    for client, side in sides.items():
        server.add_masked(client, masked(server, side, vectors([client])[client]))
    for client, side in sides.items():
        server.add_unmask(client, side.unmask(server.close_masked()))
    with pytest.raises(
        PrivacyError, match=r"Client 3 split its secrets into shares that do not fit.*without client 3"
    ):
        server.total()


def test_clients_that_were_told_of_other_clients_open_no_shares_of_each_other() -> None:
    sides = {client: SecureClient(client) for client in (1, 2, 3, 4)}
    keys = {client: side.keys() for client, side in sides.items()}
    session = b"s" * 32
    dealt = {c: sides[c].shares(session, {o: keys[o] for o in (1, 2, 3)}, 2) for c in (1, 2)}
    dealt[3] = sides[3].shares(session, keys, 3)  # it alone is told of client 4
    sealed = {other: dealt[other].sealed[1] for other in (2, 3)}
    with pytest.raises(PrivacyError, match="told of other clients"):
        sides[1].masked(sealed, vectors([1])[1], {other: dealt[other].shares[1] for other in (2, 3)})


def test_clients_that_were_sent_other_adapters_give_noise() -> None:
    """A lying server: one gets the adapter, the others one from which nothing can be learned."""
    clients = (1, 2, 3)
    zero = np.zeros(WORDS, dtype=np.uint32)

    def opened(contexts: dict[int, bytes]) -> np.ndarray:
        sides, server = ready(clients, 2)
        server._context = contexts[1]
        for client, side in sides.items():
            vector = vectors([1])[1] if client == 1 else zero
            sent = (server.sealed_for(client), vector, server.commitments_for(client), contexts[client])
            server.add_masked(client, side.masked(*sent))
        for client, side in sides.items():
            server.add_unmask(client, side.unmask(server.close_masked()))
        return server.total()

    assert np.array_equal(opened(dict.fromkeys(clients, b"adapter")), vectors([1])[1])
    assert (opened({1: b"adapter", 2: b"zeros", 3: b"zeros"}) != vectors([1])[1]).all()


def test_a_curious_server_and_two_of_four_clients_learn_the_sum_of_the_others() -> None:
    """All that they know is taken off: the opened masks of every client, and the masks that the two share."""
    from fs_fedmllm.privacy.secure_aggregation import masks

    sides, server = ready()
    data, sent = vectors((1, 2, 3, 4)), {}
    for client, side in sides.items():
        sent[client] = masked(server, side, data[client])
        server.add_masked(client, sent[client])
    for client, side in sides.items():
        server.add_unmask(client, side.unmask(server.close_masked()))
    server.total()
    salt = masks.mask_salt(server._bound(), server.sharers, b"")
    left = {}
    for client in (1, 4):
        left[client] = sent[client].copy()
        masks.apply_mask(left[client], server._secret("seed", client), negative=True)
        for other in (2, 3):
            public = server.roster[client]["mask"]
            seed = client_side.pair_seed(sides[other]._mask_key, public, salt, client, other)
            masks.apply_mask(left[client], seed, negative=client < other)
        assert (left[client] != data[client]).all()  # the mask that 1 and 4 share is still on it
    assert np.array_equal(modular_sum(list(left.values())), modular_sum([data[1], data[4]]))


@pytest.mark.parametrize("clients", [3, 4, 5, 8])
def test_two_lists_of_survivors_open_no_update_without_clients_on_the_servers_side(clients: int) -> None:
    """A client gives shares once, and both kinds of a client's shares take the threshold of clients each."""
    from fs_fedmllm.privacy.secure_aggregation import masks, shamir

    everybody = tuple(range(1, clients + 1))
    for share in (0.51, 0.66, 1.0):
        threshold = threshold_of(share, clients)
        assert 2 * threshold > clients
        sides, server = ready(everybody, threshold)
        for client, side in sides.items():
            server.add_masked(client, masked(server, side, vectors([client])[client]))
        # Client 1 is there for as many as it takes to learn its own mask, and gone for the others.
        there, gone = everybody[:threshold], everybody[threshold:]
        seeds = {c: sides[c].unmask(list(everybody))["seed"][1] for c in there}
        assert masks.commitment(shared(seeds), server._bound()) == server._commitments[1]
        keys = {}
        if len(everybody) > threshold:
            keys = {c: sides[c].unmask(list(everybody[1:]))["key"][1] for c in gone}
        assert len(keys) < threshold
        for side in sides.values():
            with pytest.raises(PrivacyError, match="does not answer"):
                side.unmask(list(everybody))
        if keys:
            guess = shamir.combine({c: int.from_bytes(data, "big") for c, data in keys.items()})
            assert guess != int.from_bytes(sides[1]._mask_key.private_bytes_raw(), "big")


def shared(shares: dict[int, bytes]) -> bytes:
    from fs_fedmllm.privacy.secure_aggregation import shamir

    return shamir.combine({client: int.from_bytes(data, "big") for client, data in shares.items()}).to_bytes(32, "big")


def test_a_server_that_is_started_again_goes_on_in_its_session() -> None:
    sides, server = ready()
    data = vectors((1, 2, 3))
    for client in (1, 2, 3):
        server.add_masked(client, masked(server, sides[client], data[client]))
    survivors = server.close_masked()
    head, total = json.loads(json.dumps(server.state()[0])), server.state()[1].copy()
    again = SecureServer.restored(head, total)
    for client in survivors:
        again.add_unmask(client, sides[client].unmask(survivors))
    expected = modular_sum([data[c] for c in (1, 2, 3)])
    assert np.array_equal(again.total(), expected)
    opened = SecureServer.restored(json.loads(json.dumps(again.state()[0])), again.state()[1])
    assert np.array_equal(opened.total(), expected)
    with pytest.raises(ValueError, match="another length"):
        SecureServer.restored(head, total[1:])


def test_answers_that_are_none() -> None:
    _, server = ready()
    with pytest.raises(PrivacyError, match="no valid public keys"):
        server.add_keys(7, {"seal": b"x", "mask": b"y"})
    with pytest.raises(PrivacyError, match="one share for each"):
        server.add_shares(1, client_side.Dealt({2: b"short"}, b"0" * 32, {}))
    with pytest.raises(PrivacyError, match="no masked update"):
        server.add_masked(9, np.zeros(WORDS, dtype=np.uint32))
    with pytest.raises(PrivacyError, match="no masked update"):
        server.add_masked(1, np.zeros(WORDS + 1, dtype=np.uint32))
    server.add_masked(1, np.zeros(WORDS, dtype=np.uint32))
    with pytest.raises(PrivacyError, match="no masked update"):  # the same one again would count twice
        server.add_masked(1, np.zeros(WORDS, dtype=np.uint32))


def test_keys_differ_by_round_and_purpose(monkeypatch) -> None:
    one, two = SecureClient(1), SecureClient(2)
    public = two.keys()
    seeds = {client_side.pair_seed(one._mask_key, public["mask"], session, 1, 2) for session in (b"a" * 16, b"b" * 16)}
    seeds.add(client_side.masks.agree(one._mask_key, public["mask"], "seal", b"a" * 16, 1, 2))
    assert len(seeds) == 3


# Composition -------------------------------------------------------------------------------------------------------

PARAMS = {"a": torch.linspace(-1, 1, 12).reshape(3, 4), "b": torch.zeros(5)}
ROWS = {1: 10, 2: 3, 4: 25}


def updates() -> dict[int, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return {c: {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in PARAMS.items()} for c in ROWS}


def policy(clip_norm: float = 0.0, value_range: float = 1.0, bound: int = 25) -> Policy:
    return Policy(FixedPoint.of(PARAMS, 3, clip_norm or value_range, 1 if clip_norm else bound), 2, clip_norm, 3)


@pytest.mark.parametrize("method", sorted(OPTIMIZERS))
def test_every_server_optimizer_gets_the_mean_within_the_bound(method: str) -> None:
    optimizer = build_server_optimizer(
        method, lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3, switches=profile_switches("fixed")
    )
    rows = ROWS if optimizer.weighting == "samples" else dict.fromkeys(ROWS, 1)
    plain, secure = RunningMean(PARAMS), SecureSum(PARAMS, list(ROWS), policy(bound=max(rows.values())))
    for client, update in updates().items():
        plain.add(client, rows[client], update)
        secure.add(client, rows[client], update)
    expected, got = plain.mean(), secure.mean()
    unit = secure._policy.codec.unit * max(rows.values()) / sum(rows.values())
    for name in PARAMS:
        assert (expected[name] - got[name]).abs().max() <= 1.5 * unit + 1e-8
    after, _ = optimizer.step(PARAMS, optimizer.init(PARAMS), got)
    reference, _ = optimizer.step(PARAMS, optimizer.init(PARAMS), expected)
    for name in PARAMS:
        torch.testing.assert_close(after[name], reference[name], rtol=1e-5, atol=1e-6)


def test_with_differential_privacy_the_bound_holds_after_rounding() -> None:
    clip_norm = 0.02
    total = {}
    for client in ROWS:  # the norm of what one client adds to the sum, as the server decodes it
        side = policy(clip_norm)
        vector = side.vector(client, PARAMS, {n: t + 7.0 for n, t in PARAMS.items()}, 1)
        contribution = side.codec.decode(vector, divisor=1)
        assert clip_norm * 0.99 < l2_norm(contribution) <= clip_norm
        total[client] = vector
    mean = policy(clip_norm).mean(modular_sum(list(total.values())[:2]))
    assert l2_norm(mean) == pytest.approx(2 / 3 * clip_norm, rel=1e-3)  # divided by the three that were expected


def test_a_client_that_fails_is_a_dropout() -> None:
    secure = SecureSum(PARAMS, list(ROWS), policy())
    for client, update in updates().items():
        if client == 2:
            with pytest.raises(UpdateError, match=r"Client 2: .*finite"):
                secure.add(client, 1, {**update, "b": torch.full((5,), float("nan"))})
        else:
            secure.add(client, ROWS[client], update)
    plain = RunningMean(PARAMS)
    for client in (1, 4):
        plain.add(client, ROWS[client], updates()[client])
    for name, tensor in secure.mean().items():
        torch.testing.assert_close(tensor, plain.mean()[name], rtol=0, atol=1e-8)


def test_too_few_left_is_an_error_and_nobody_is_no_mean() -> None:
    secure = SecureSum(PARAMS, list(ROWS), policy())
    assert secure.mean() == {}
    secure.add(1, 10, updates()[1])
    with pytest.raises(PrivacyError, match="1 of 3 clients sent a masked update, and the threshold is 2"):
        secure.mean()


def test_values_beyond_the_range_are_said(caplog) -> None:
    secure = SecureSum(PARAMS, list(ROWS), policy(value_range=1e-3))
    secure.add(1, 10, updates()[1])
    assert "beyond fedmllm.privacy.secure_aggregation.value_range = 0.001" in caplog.text


@pytest.mark.parametrize(
    ("share", "clients", "expected"),
    [(0.67, 3, 3), (0.66, 3, 2), (0.66, 4, 3), (0.66, 5, 4), (0.66, 10, 7), (0.51, 4, 3), (1.0, 7, 7)],
)
def test_thresholds(share: float, clients: int, expected: int) -> None:
    assert threshold_of(share, clients) == expected


def test_too_many_parameters_for_the_clip() -> None:

    privacy = PrivacyConfig(dp=DPConfig(clip_norm=1e-3))
    with pytest.raises(PrivacyError, match=r"a tenth of fedmllm\.privacy\.dp\.clip_norm"):
        Policy.of(privacy, 1, {"w": torch.zeros(30_000_000, dtype=torch.int8)}, 100_000, 1)
