"""The manifest replaces the draw, and refuses data or files that are not what it recorded."""

import hashlib
import json

import pytest
from scenario_rows import medical, paired

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.scenarios import ScenarioParams, apply_scenario, profile_params
from fs_fedmllm.scenarios.manifest import apply_manifest, read_manifest, write_manifest
from fs_fedmllm.scenarios.rates import measured_rates, nominal_rates, said_rates

DIGESTS = {
    "aligned": "ceee1f0aa6d9b42e",
    "missing": "094faa1e9b642365",
    "cross": "d9c91b1214766739",
    "hybrid": "b05aac3ee9976eb9",
}
LABELS = [n * n % 5 for n in range(200)]


def drawn(name="missing", rows=None, **changes):
    return apply_scenario(
        name,
        rows or paired(LABELS),
        5,
        ScenarioParams(image_clients=2, **changes),
        seed=8,
        dataset="demo",
        fingerprint="abc",
    )


@pytest.mark.parametrize("profile", ["fixed", "paper", "upstream"])
@pytest.mark.parametrize("name", ["aligned", "missing", "cross", "hybrid"])
@pytest.mark.parametrize("rows", [paired(LABELS), medical(40, 60)], ids=["paired", "medical"])
def test_round_trip(tmp_path, name, profile, rows):
    params = profile_params(profile, image_clients=2, by="modality", missing_both="keep_empty")
    split = apply_scenario(name, rows, 5, params, seed=8, dataset="demo")
    write_manifest(split.manifest, tmp_path / "manifest.json")
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest == split.manifest
    assert manifest.sha256 == split.manifest.sha256
    assert apply_manifest(manifest, rows).clients == split.clients
    assert apply_manifest(manifest, rows[::-1]).clients == split.clients
    assert list(tmp_path.iterdir()) == [tmp_path / "manifest.json"]


def test_what_is_recorded():
    record = drawn().manifest
    assert (record.algorithm, record.scenario, record.seed, record.dataset, record.samples) == (
        1,
        "missing",
        8,
        "demo",
        200,
    )
    assert record.params["alpha"] == 0.5
    assert all(len(client.rows) == len(client.shows) for client in record.clients.values())


@pytest.mark.parametrize("name", ["aligned", "missing", "cross", "hybrid"])
def test_a_known_split_never_changes_silently(name):
    """If this fails, the drawing code changed: raise ALGORITHM and record the new digests."""
    records = drawn(name).manifest.clients
    text = "\n".join(" ".join([str(client), *record.rows, record.shows]) for client, record in records.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize(
    ("old", "new"),
    [('"seed": 8', '"seed": 9'), ('"r7"', '"r8"'), ('"shows": "', '"shows": "n'), ('"dropped": 0', '"dropped": 1')],
)
def test_an_edited_file_is_refused(tmp_path, old, new):
    path = tmp_path / "manifest.json"
    write_manifest(drawn().manifest, path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=r"manifest\.json was changed after it was written"):
        read_manifest(path)


def test_nominal_and_measured_rates_stand_beside_what_the_sha256_covers(tmp_path):
    path = tmp_path / "manifest.json"
    manifest = drawn(beta=0.5).manifest
    write_manifest(manifest, path)
    content = json.loads(path.read_text())
    rates = content["missing_rates"]
    assert rates == manifest.missing_rates and rates["nominal"] == {"image": 0.5, "text": 0.5}
    shows = "".join(record.shows for record in manifest.clients.values())
    assert rates["measured"] == pytest.approx({name: shows.count(other) / 200 for name, other in
                                               (("image", "t"), ("text", "i"))})  # fmt: skip
    # Where both are drawn away one is kept: beta - beta^2 / 2, below the level.
    assert all(abs(rate - 0.375) < 0.09 for rate in rates["measured"].values())
    del content["missing_rates"]  # a file of before: the same manifest, the same sha256
    path.write_text(json.dumps(content))
    assert read_manifest(path).sha256 == manifest.sha256
    path.write_text(json.dumps({**content, "missing_rates": {**rates, "nominal": {"image": 0.1, "text": 0.1}}}))
    with pytest.raises(ScenarioError, match="its missing_rates are not those of its rows"):
        read_manifest(path)


def test_nominal_rates_are_the_levels():
    level = dict(clients=10)
    assert nominal_rates("aligned", {"alpha": 5.0}, **level) == {"image": 0.0, "text": 0.0}
    assert nominal_rates("cross", {"image_clients": 3, "text_clients": 7}, **level) == {"image": 0.7, "text": 0.3}
    assert nominal_rates("cross", {"image_clients": None, "text_clients": 7}, **level) == {"image": 0.7, "text": 0.3}
    assert nominal_rates("hybrid", {"p": 0.8}, **level) == {"image": 0.2, "text": 0.2}
    assert nominal_rates("somebody's", {}, **level) == {}
    kept = drawn(beta=0.5, missing_both="keep_empty").manifest.missing_rates
    assert kept["measured"]["image"] == pytest.approx(0.5, abs=0.1)  # a row with nothing lacks both


def test_rates_are_said_where_something_is_missing():
    rates = {"nominal": {"image": 0.5, "text": 0.5}, "measured": {"image": 0.374, "text": 0.38}}
    assert said_rates(rates) == "image 50.0 % nominal, 37.4 % measured; text 50.0 % nominal, 38.0 % measured"
    nothing = {"image": 0.0, "text": 0.0}
    assert said_rates({"nominal": nothing, "measured": nothing}) == said_rates({}) == ""
    assert said_rates({"nominal": {}, "measured": {"image": 0.25, "text": 0.0}}).startswith("image not known nominal")


def test_a_modality_that_no_row_has_is_not_missing():
    """VQA-RAD: an image and a question in each row, and no text that anybody could lack."""
    rates = {"nominal": {"image": 0.5, "text": 0.5}, "measured": {"image": 0.49, "text": 1.0}}
    assert said_rates(rates, {"image": 451}) == (
        "image 50.0 % nominal, 49.0 % measured; text in no training row and no evaluated test row (a question is none)"
    )
    # Clients without texts beside test rows that have them lack texts; and where nobody knows, the number is said.
    for tested in ({"image": 450, "both": 1}, {"text": 3}, {}):
        assert "text 50.0 % nominal, 100.0 % measured" in said_rates(rates, tested)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "", "clients": {"1": {"rows": []}}}'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ScenarioError, match=r"broken\.json cannot be read as a manifest"):
        read_manifest(tmp_path / "broken.json")
    with pytest.raises(ScenarioError, match=r"absent\.json cannot be read"):
        read_manifest(tmp_path / "absent.json")


def test_another_algorithm_version_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(drawn().manifest, path)
    content = json.loads(path.read_text())
    content["algorithm"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(ScenarioError, match="algorithm version 99, this version knows 1"):
        read_manifest(path)


def test_other_data_is_refused():
    manifest, rows = drawn().manifest, paired(LABELS)
    assert apply_manifest(manifest, rows, fingerprint="abc")
    with pytest.raises(ScenarioError, match=r"fingerprint xyz\.\.\. is not its abc"):
        apply_manifest(manifest, rows, fingerprint="xyz")
    with pytest.raises(ScenarioError, match=r"2 of its rows are absent, such as r\d+, r\d+"):
        apply_manifest(manifest, rows[2:])
    extra = Sample("extra", "/x.png", "x", "a", label=0)
    with pytest.raises(ScenarioError, match="there are 201 rows, it was made from 200"):
        apply_manifest(manifest, [*rows, extra])
    with pytest.raises(ScenarioError, match=r"row r\d+ of client \d should show (both|text), and has only image"):
        apply_manifest(manifest, [row.showing(image=True, text=False) for row in rows])
    with pytest.raises(ScenarioError, match="has rows by label"):
        apply_manifest(manifest, paired([0] * 200))


def test_numbers_of_a_hostile_manifest_give_no_rates() -> None:
    assert measured_rates([{"both": 10**400, "image": 1}]) == {}
    assert measured_rates([{"both": -(10**400), "image": 10**400}]) == {}
    assert measured_rates([{"both": 1.5, "image": 10**400}]) == {} == measured_rates([{}])
    assert nominal_rates("cross", {"image_clients": 10**400}, 3) == {}
    assert nominal_rates("missing", {"beta": float("nan")}, 3) == {}
