"""Secure aggregation between sites under attack: repeated rounds, invented clients, low thresholds, foreign keys."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from secure_game import PARAMS, Game, Refused, delta

from fs_fedmllm.distributed.authority import create_authority, create_identity
from fs_fedmllm.distributed.identity import Identity
from fs_fedmllm.distributed.secure_client import KEYS, SHARES
from fs_fedmllm.distributed.secure_memory import RoundMemory
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.privacy.secure_aggregation.client import SecureClient

ALL = (1, 2, 3, 4)
NEARBY = {name: tensor + 1e-6 for name, tensor in PARAMS.items()}


def error_of_the_difference(first, second) -> float:
    """How far the difference of two sums is from client 3's update."""
    return max(float((first[n] - second[n] - delta(3)[n]).abs().max()) for n in PARAMS)


# A round that is taken again ----------------------------------------------------------------------------------------


def test_the_attack_a_repeated_round_opens_one_client(tmp_path: Path) -> None:
    """It needs no lie: a server that crashed after unmasking asks again, without client 3. It worked; no longer."""
    before = Game(tmp_path / "before", remembers=False)
    opened = before.play(ALL), before.play((1, 2, 4))
    assert error_of_the_difference(*opened) < 1e-7  # client 3's update, to the last digit
    now = Game(tmp_path / "now")
    now.play(ALL)
    with pytest.raises(Refused, match=r"masked update of round 0 among the clients 1, 2, 3, 4.*among 1, 2, 4"):
        now.play((1, 2, 4))


def test_what_was_sent_is_remembered_over_a_restart_and_before_it_is_sent(tmp_path: Path) -> None:
    game = Game(tmp_path)
    server, policy = game.begin(ALL)
    game.turn(server, policy, 1)  # the others never came to it, and nobody unmasked anything
    with pytest.raises(Refused, match=r"client 1: it has sent its masked update of round 0"):
        Game(tmp_path).play((1, 2, 4))
    assert len(Game(tmp_path).play((2, 3, 4), round_index=1)) == 2  # another round is another matter


def test_no_secret_of_a_round_is_on_disk(tmp_path: Path, monkeypatch) -> None:
    from fs_fedmllm.distributed import secure_client
    from fs_fedmllm.privacy.secure_aggregation.client import SecureClient

    made: list[SecureClient] = []
    monkeypatch.setattr(secure_client, "SecureClient", lambda client: made.append(SecureClient(client)) or made[-1])
    Game(tmp_path).play(ALL)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == len(ALL) and b"survivors" in written
    for own in made:
        for secret in (own._self_seed, own._mask_key.private_bytes_raw(), own._seal_key.private_bytes_raw()):
            assert secret not in written and secret.hex().encode() not in written


def test_a_full_disk_keeps_the_update_in(tmp_path: Path, monkeypatch) -> None:
    from fs_fedmllm.distributed import secure_memory

    game = Game(tmp_path)
    server, policy = game.begin(ALL)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secure_memory, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        game.turn(server, policy, 1)


def test_the_same_clients_send_the_very_numbers_again(tmp_path: Path, monkeypatch) -> None:
    """Also where training would give others: what was sent is kept."""
    import secure_game

    first = Game(tmp_path).play(ALL)
    monkeypatch.setattr(secure_game, "delta", lambda client: pytest.fail("trained again"))
    again = Game(tmp_path).play(ALL)
    assert all(torch.equal(first[name], again[name]) for name in PARAMS)


@pytest.mark.parametrize("change", ["adapter", "nearby adapter", "configuration", "data"])
def test_a_repeat_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch, change: str) -> None:
    import secure_game

    Game(tmp_path).play(ALL)
    words, params = (), PARAMS
    if change == "adapter":
        params = {name: tensor + 1 for name, tensor in PARAMS.items()}
    elif change == "nearby adapter":
        params = NEARBY
    elif change == "configuration":
        words = ("fedmllm.privacy.secure_aggregation.value_range", "0.5")
        (tmp_path / "client_1" / "secure" / "update.bin").unlink()  # or the kept numbers are sent again
    else:
        (tmp_path / "client_1" / "secure" / "update.bin").unlink()
        monkeypatch.setattr(secure_game, "delta", lambda client: {n: 2 * t for n, t in delta(client).items()})
    with pytest.raises(Refused, match="client 1: it has sent another update in round 0"):
        Game(tmp_path, *words).play(ALL, params=params)


def test_a_second_sum_over_other_survivors_is_refused(tmp_path: Path) -> None:
    Game(tmp_path).play(ALL)
    with pytest.raises(Refused, match=r"helped to open the sum of the clients 1, 2, 3, 4 in round 0"):
        Game(tmp_path).play(ALL, gone=(3,))


def test_another_round_from_the_same_adapter_is_the_same_round(tmp_path: Path) -> None:
    Game(tmp_path).play(ALL)
    with pytest.raises(Refused, match=r"helped to open the sum .* in round 0, which began with the same adapter"):
        Game(tmp_path).play((1, 2, 4), round_index=1)
    with pytest.raises(Refused, match=r"helped to open the sum .* in round 0, which began with the same adapter"):
        Game(tmp_path).play(ALL, round_index=2, gone=(3,))
    Game(tmp_path).play((1, 2, 4), round_index=3, params=NEARBY)  # what docs/privacy.md says of a server that lies


def test_a_run_in_which_nothing_moves_any_more_goes_on(tmp_path: Path, monkeypatch) -> None:
    """Past the learning rate's horizon every round starts from the same adapter, and updates are zero."""
    import secure_game

    monkeypatch.setattr(secure_game, "delta", lambda client: {n: torch.zeros_like(t) for n, t in PARAMS.items()})
    Game(tmp_path).play(ALL)
    Game(tmp_path).play((1, 2, 4), round_index=1)


def test_a_folder_that_was_removed_forgets_and_the_other_sites_do_not(tmp_path: Path) -> None:
    Game(tmp_path).play(ALL)
    shutil.rmtree(tmp_path / "client_1")
    game = Game(tmp_path)
    with pytest.raises(Refused, match="client 2: it has sent its masked update"):
        game.play((1, 2, 4))


@pytest.mark.parametrize("damage", ["cut", "changed", "older"])
def test_a_damaged_memory_is_no_empty_one(tmp_path: Path, damage: str) -> None:
    Game(tmp_path).play(ALL)
    path = tmp_path / "client_1" / "secure" / "rounds.json"
    assert path.stat().st_mode & 0o077 == 0  # what a site sent is its own affair
    text = path.read_text()
    if damage == "cut":
        path.write_text(text[: len(text) // 2])
    else:
        content = json.loads(text)
        content["rounds"] = {} if damage == "changed" else content["rounds"]
        content["version"] = content["version"] if damage == "changed" else 0
        path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"not known what this site has sent.*another expname"):
        Game(tmp_path)


def test_shares_are_not_given_out_before_it_is_on_disk(tmp_path: Path) -> None:
    memory = RoundMemory(tmp_path)
    memory.sending(0, ALL, "start", 4, 1, np.arange(3, dtype=np.uint32))
    assert RoundMemory(tmp_path).get(0).survivors is None
    memory.opening(0, (1, 2, 4))
    assert RoundMemory(tmp_path).get(0).survivors == (1, 2, 4)


# Who takes part -----------------------------------------------------------------------------------------------------


def roster_of(game: Game, others: list[str], **more) -> tuple[dict, dict]:
    """Client 1's keys with those of others, all of the server's making, and what the server asks with."""
    about = {"session": "5" * 64, "start": "5" * 64, "round": 0}
    entries = {"1": dict(game.ask(1, KEYS, about).header)}
    for name in others:
        entries[name] = {kind: key.hex() for kind, key in SecureClient(9).keys().items()}
    return {**about, "roster": {**entries, **more}, "threshold": 3}, entries


@pytest.mark.parametrize(
    ("others", "threshold", "said"),
    [
        (["2"], 2, "threshold of 2, this site for at least 3"),  # itself and one that was invented
        (["2", "3"], 2, "threshold of 2, this site for at least 3"),  # of three, two would be the share
        (["2", "3", "5"], 3, r"names client 5, but federate\.client_num is 4"),
        (["2", "3", "4", "5"], 3, "names client 5"),
        (["2", "02", "3"], 3, "'02' is not a client"),
        (["2", "0", "3"], 3, "'0' is not a client"),
        (["2", "true", "3"], 3, "'true' is not a client"),
        (["2", "-3", "4"], 3, "'-3' is not a client"),
        (["2", "3.0", "4"], 3, "'3.0' is not a client"),
        (["2", "٣", "4"], 3, "is not a client"),
        (["2", "3", "4"], True, "threshold must be a whole number"),
        (["2", "3", "4"], "3", "threshold must be a whole number"),
        (["2", "3", "4"], 5, "threshold of 5 among 4"),
    ],
)
def test_a_server_does_not_choose_among_how_many_a_client_hides(tmp_path, others, threshold, said) -> None:
    game = Game(tmp_path)
    task, _ = roster_of(game, others)
    with pytest.raises(Refused, match=said):
        game.ask(1, SHARES, {**task, "threshold": threshold})


def test_a_roster_without_the_client_or_with_its_keys_twice(tmp_path: Path) -> None:
    game = Game(tmp_path)
    task, entries = roster_of(game, ["2", "3", "4"])
    with pytest.raises(Refused, match="leaves this client out"):
        game.ask(1, SHARES, {**task, "roster": {name: keys for name, keys in entries.items() if name != "1"}})
    game = Game(tmp_path)
    task, entries = roster_of(game, ["2", "3", "4"])
    with pytest.raises(Refused, match="Two public keys of the roster are the same"):
        game.ask(1, SHARES, {**task, "roster": {**entries, "3": entries["2"]}})
    game = Game(tmp_path)
    task, entries = roster_of(game, ["2", "3", "4"])
    with pytest.raises(Refused, match="does not hold the keys that client 1 sent"):
        game.ask(1, SHARES, {**task, "roster": {**entries, "1": other_keys()}})


def other_keys() -> dict[str, str]:
    return {kind: key.hex() for kind, key in SecureClient(1).keys().items()}


def test_more_clients_than_a_round_has_are_refused(tmp_path: Path) -> None:
    game = Game(tmp_path, "federate.sample_client_num", "3")
    task, _ = roster_of(game, ["2", "3", "4"])
    with pytest.raises(Refused, match="roster has 4 clients, and a round of this run has 3"):
        game.ask(1, SHARES, task)


# Whose keys they are ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Identity]:
    folder = tmp_path_factory.mktemp("federation")
    create_authority(folder, "ward-study")
    for client in (0, *ALL):
        create_identity(folder, client, ["localhost"] if not client else [])
    return {client: Identity.load(folder, client) for client in (0, *ALL)}


def test_with_certificates_clients_know_each_other(tmp_path: Path, identities) -> None:
    assert len(Game(tmp_path, who=identities).play(ALL)) == 2


@pytest.mark.parametrize("trick", ["unsigned", "the server's", "another's", "another round's", "foreign", "revoked"])
def test_keys_that_a_client_has_not_signed_are_refused(tmp_path: Path, identities, trick: str) -> None:
    """A server that plays clients 2 to 4 itself would open client 1's update."""
    from fs_fedmllm.distributed.secure_keys import prove

    if trick == "revoked":
        serial = __import__("cryptography.x509").x509.load_pem_x509_certificate(identities[2].certificate)
        mine = dataclasses.replace(identities[1], revoked=frozenset({serial.serial_number}))
        identities = {**identities, 1: mine}
    game = Game(tmp_path, who=identities)
    about = {"session": "5" * 64, "start": "5" * 64, "round": 0}
    entries = {str(client): dict(game.ask(client, KEYS, about).header) for client in ALL}
    made = SecureClient(2).keys()
    session = bytes.fromhex("5" * 64)
    proof = {
        "unsigned": {},
        "the server's": prove(identities[0], session, 0, made),
        "another's": prove(identities[3], session, 0, made),
        "another round's": prove(identities[2], session, 1, made),
        "foreign": {},
        "revoked": prove(identities[2], session, 0, made),
    }[trick]
    if trick == "foreign":
        create_authority(tmp_path / "own", "ward-study")
        create_identity(tmp_path / "own", 2)
        proof = prove(Identity.load(tmp_path / "own", 2), session, 0, made)
    entries["2"] = {**{kind: key.hex() for kind, key in made.items()}, **proof}
    with pytest.raises(Refused, match=r"keys of client 2 (that|under)"):
        game.ask(1, SHARES, {**about, "roster": entries, "threshold": 3})
