"""Clients as the data has them: one for each value of a column."""

import dataclasses
import json
import random

import pytest
from scenario_rows import ids, medical, paired, presence

from fs_fedmllm.data.client_names import called, client_by, shown_name
from fs_fedmllm.errors import ConfigError, ScenarioError
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario, params_of
from fs_fedmllm.scenarios.manifest import apply_manifest, read_manifest, write_manifest

SITES = ["Nord", "Ost", "Süd", "West"]


def rows_of(names, **changes):
    """A row for each name."""
    return [
        dataclasses.replace(row, keys={"site": name}, **changes)
        for row, name in zip(paired([i % 2 for i in range(len(names))]), names, strict=True)
    ]


def unequal():
    names = [name for count, name in zip((1, 5, 14, 40), SITES, strict=True) for _ in range(count)]
    random.Random(3).shuffle(names)
    return rows_of(names)


def given(rows, clients=0, **settings):
    return apply_scenario("given", rows, clients, params_of("given", {"client": "site", **settings}), seed=5)


def test_a_client_for_each_value_in_the_order_of_the_names_and_nothing_taken_away():
    split = given(unequal())
    assert split.manifest.names == {1: "Nord", 2: "Ost", 3: "Süd", 4: "West"}
    assert [len(rows) for rows in split.clients.values()] == [1, 5, 14, 40]
    for client, rows in split.clients.items():
        assert {row.keys["site"] for row in rows} == {split.manifest.names[client]}
        assert {row.presence for row in rows} == {"both"}
    assert split.manifest.missing_rates["measured"] == {"image": 0.0, "text": 0.0}
    assert split.manifest.missing_rates["nominal"] == {"image": 0.0, "text": 0.0}


def test_the_split_is_the_same_however_the_file_is_sorted():
    rows = unequal()
    turned = list(reversed(rows))
    for settings in ({}, {"scenario": "missing", "beta": 0.5}, {"scenario": "hybrid", "p": 0.6}):
        first, second = given(rows, **settings), given(turned, **settings)
        assert ids(first.clients) == ids(second.clients)
        assert first.manifest.sha256 == second.manifest.sha256


def test_whole_numbers_are_in_the_order_of_their_size():
    assert list(given(rows_of(["10", "9", "2", "1"])).manifest.names.values()) == ["1", "2", "9", "10"]
    assert list(given(rows_of(["10", "9", "a"])).manifest.names.values()) == ["10", "9", "a"]
    assert list(given(rows_of(["ost", "West", "Nord"])).manifest.names.values()) == ["Nord", "West", "ost"]


def test_a_scenario_on_top_takes_modalities_and_moves_no_row():
    rows = unequal()
    plain = {client: set(found) for client, found in ids(given(rows).clients).items()}
    for settings in (
        {"scenario": "missing", "beta": 0.5},
        {"scenario": "cross", "image_clients": 2},
        {"scenario": "hybrid", "p": 0.5},
        {"scenario": "aligned"},
    ):
        split = given(rows, **settings)
        assert {client: set(found) for client, found in ids(split.clients).items()} == plain
        taken = sum(presence(found)["both"] < len(found) for found in split.clients.values())
        assert (taken == 0) == (settings["scenario"] == "aligned")
    assert given(rows, scenario="missing", beta=0.3).manifest.missing_rates["nominal"]["image"] == 0.3
    cross = given(rows, scenario="cross", image_clients=1)
    assert sum(presence(found)["image"] > 0 for found in cross.clients.values()) == 1


def test_the_number_of_clients_is_that_of_the_values():
    assert len(given(unequal(), 4).clients) == 4
    with pytest.raises(ScenarioError, match="client_num is 3, and the training rows have 4 values of 'site'"):
        given(unequal(), 3)


def test_a_row_without_a_value_is_refused_with_its_place():
    rows = unequal()
    for blank in ("", "  ", "\u200b"):
        rows[7] = dataclasses.replace(rows[7], keys={"site": blank})
        with pytest.raises(ScenarioError, match=r"^train\.jsonl:8: the row has no 'site'.*fill it in"):
            given(rows)
    rows[7] = dataclasses.replace(rows[7], keys={})
    with pytest.raises(ScenarioError, match=r"^train\.jsonl:8: the row has no 'site'"):
        given(rows)
    with pytest.raises(ScenarioError, match=r"client is 'ward', and no training row has it.*rows have site"):
        given(unequal(), client="ward")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Nord", "nord"), ("Nord", "Nord "), ("Nord", "N\u200bord"), ("Bonn", "В\u043enn"), ("Köln", "Ko\u0308ln")],
)
def test_names_that_read_the_same_are_refused(one, other):
    with pytest.raises(
        ScenarioError, match=r"train\.jsonl:2: 'site' is .*train\.jsonl:1 has .*reads the same"
    ) as said:
        given(rows_of([one, other]))
    assert str(said.value).isascii() or "ö" not in str(said.value)  # by their characters: they look alike


def test_different_names_of_one_script_are_never_taken_for_one_another():
    cyrillic = "авекмнорстухіјѕабвгдежзийклмнопрстуфхцчшщъыьэюя"
    names = sorted(set(cyrillic))
    assert len(given(rows_of(names)).clients) == len(names)
    greek = sorted(set("αβγδεζηθικλμνξοπρστυφχψω"))
    assert len(given(rows_of(greek)).clients) == len(greek)


HOSTILE = ["../../etc/passwd", "\x1b[2J\x1b[H", "a\nb", "\u202etxt", "$\\frac{1}{0}$", "<script>", "x" * 200, "🏥"]


def test_hostile_names_are_shown_on_one_line_and_kept_as_they_are(tmp_path):
    split = given(rows_of(HOSTILE))
    for client, name in split.manifest.names.items():
        shown = called(client, split.manifest.names)
        assert shown.isprintable() and len(shown) < 50 and shown.startswith(f"{client} (")
        assert name in HOSTILE
    write_manifest(split.manifest, tmp_path / "manifest.json")
    again = read_manifest(tmp_path / "manifest.json")
    assert again == split.manifest and again.sha256 == split.manifest.sha256
    assert ids(apply_manifest(again, rows_of(HOSTILE)).clients) == ids(split.clients)
    with pytest.raises(ScenarioError, match=r"train.jsonl:1: 'site' has 201 characters"):
        given(rows_of(["y" * 201]))


def test_ten_thousand_clients():
    split = given(rows_of([f"site {i}" for i in range(10_000)]), scenario="missing", beta=0.5)
    assert len(split.clients) == 10_000 and split.manifest.names[10_000] == "site 9999"


def test_a_manifest_whose_name_is_no_text_is_refused(tmp_path):
    write_manifest(given(unequal()).manifest, tmp_path / "manifest.json")
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["clients"]["1"]["name"] = ["Nord"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ScenarioError, match="cannot be read as a manifest"):
        read_manifest(tmp_path / "manifest.json")


def test_settings_that_say_nothing_here_are_refused():
    for name, match in (
        ("alpha", "alpha says how rows are drawn"),
        ("keep_together", "keep_together says how rows are drawn"),
        ("beta", "beta is read by the scenario missing; write scenario: missing"),
        ("p", "p is read by the scenario hybrid"),
        ("image_clients", "image_clients is read by the scenario cross"),
    ):
        with pytest.raises(ScenarioError, match=match):
            given(unequal(), **{name: 1})
    with pytest.raises(ScenarioError, match="scenario is 'given'; with fedmllm_given it is one of aligned"):
        given(unequal(), scenario="given")
    with pytest.raises(ScenarioError, match="client belongs to fedmllm_given"):
        params_of("missing", {"client": "site"})
    with pytest.raises(ScenarioError, match="needs the column"):
        apply_scenario("given", unequal(), 0, ScenarioParams())


def test_rows_of_one_modality_each_stay_with_their_client():
    rows = [dataclasses.replace(r, keys={"site": SITES[i % 4]}) for i, r in enumerate(medical(20, 20))]
    assert len(given(rows).clients) == 4
    with pytest.raises(ScenarioError, match=r"no row has both.*leave scenario out"):
        given(rows, scenario="cross", image_clients=2)


def test_a_client_that_would_keep_nothing_is_called_by_its_name():
    rows = rows_of(["a", "b"] * 8)
    rows = [dataclasses.replace(row, text=None) if row.keys["site"] == "b" else row for row in rows]
    with pytest.raises(ScenarioError, match="'b', client 2 would keep none of its 8 rows"):
        given(rows, scenario="cross", text_clients=2)


def test_a_client_is_found_by_id_and_by_name():
    names = {1: "Nord", 2: "3", 3: "a\tb"}
    assert client_by("2", names) == 2 and client_by("3", names) == 3  # a number is an id
    assert client_by("Nord", names) == 1 and client_by("a b", names) == 3
    assert client_by("Sued", names) is None
    assert shown_name("a" * 50) == "a" * 39 + "…"


def test_the_configuration_without_a_number_of_clients():
    from fs_fedmllm.config import from_mapping

    raw = {
        "data": {"type": "own", "splitter": "fedmllm_given", "splitter_args": [{"client": "site"}]},
        "federate": {"sample_client_num": 2},
        "fedmllm": {"data": {"template": "medical"}},
    }
    assert from_mapping(raw).counts_clients
    for changed, match in (
        ({"splitter_args": []}, "needs the column"),
        ({"splitter_args": [{"client": 3}]}, "client is 3; write a text"),
        ({"splitter_args": [{"client": "site", "beta": 0.5}]}, "beta is read by the scenario missing"),
        ({"splitter": "fedmllm_missing"}, "client_num is 0"),
    ):
        with pytest.raises(ConfigError, match=match):
            from_mapping({**raw, "data": {**raw["data"], **changed}})
