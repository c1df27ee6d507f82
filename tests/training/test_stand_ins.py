"""Stand-ins: what they are, that they tell nothing, when they are on, and that nothing else notices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.config import StandInsConfig
from fs_fedmllm.data.images import pixels_key
from fs_fedmllm.data.sample import MODALITIES, Dataset, Sample
from fs_fedmllm.errors import ConfigError, UpdateError
from fs_fedmllm.rounds import stand_ins
from fs_fedmllm.rounds.schedule import guard_asks, stand_in_kinds
from fs_fedmllm.rounds.stand_in_guard import allowed_by, decision, sentence
from fs_fedmllm.rounds.stand_ins import StandIns, allowed_in, noise_image, place_of, telling
from fs_fedmllm.runs.simulation import run
from fs_fedmllm.scenarios.fitting import check_stand_ins, fitting_template

BOTH = frozenset(MODALITIES)
AUTO = ("fedmllm.stand_ins.use", "auto")
OPTIONS = ("lower billing", "upper repair")
PLACE = place_of(5, 2, 7)


def row(index: int, presence: str, **own: Any) -> Sample:
    image = f"/pictures/{index}.png" if presence in ("both", "image") else None
    return Sample(f"r{index}", image, f"text {index}" if presence in ("both", "text") else None, "(A)", label=0, **own)


def maker(**own: Any) -> StandIns:
    return StandIns(StandInsConfig(use="force", **own), OPTIONS, None)


ROWS = [row(i, ("image", "text", "both")[i % 3]) for i in range(30)]
BATCHES = [list(range(i, i + 10)) for i in (0, 10, 20)] + [[0, 1, 2]]


def completed(rows=ROWS, batches=BATCHES, allowed=BOTH, place=PLACE, **own):
    return maker(**own).completed(rows, batches, allowed, place)


def test_a_completed_row_keeps_what_it_has_and_its_answer() -> None:
    batches, made = completed(q=1.0)
    for drawn, shown in zip(BATCHES, batches, strict=True):
        assert len(drawn) == len(shown)
        for i, j in zip(drawn, shown, strict=True):
            if ROWS[i].presence == "both":
                assert j == i
                continue
            whole = made[j]
            assert whole.presence == "both" and whole.answer == ROWS[i].answer and whole.id == ROWS[i].id
            kept = "image" if ROWS[i].presence == "image" else "text"
            assert getattr(whole, kept) == getattr(ROWS[i], kept)
    assert sorted(made) == list(range(30, 30 + len(made)))


def test_a_share_of_q_is_completed_and_others_stay_as_they_are() -> None:
    rows = [row(i, ("image", "text")[i % 2]) for i in range(2000)]
    _, made = completed(rows, [list(range(2000))], q=0.25)
    assert abs(len(made) / 2000 - 0.25) < 0.04
    assert abs(sum(r.image.startswith("/pictures") for r in made.values()) / len(made) - 0.5) < 0.1
    assert len({r.text for r in made.values() if r.text and not r.text.startswith("text ")}) > 150  # variety
    assert completed(rows, [list(range(2000))], frozenset())[1] == {}


@pytest.mark.parametrize("kind", MODALITIES)
def test_one_kind_alone(kind: str) -> None:
    _, made = completed(allowed=frozenset({kind}), q=1.0)
    lacked = {"image": "text", "text": "image"}[kind]
    assert made and all(ROWS[int(r.id[1:])].presence == lacked for r in made.values())


def test_it_is_a_function_of_seed_round_client_and_row() -> None:
    first, again = completed(), completed()
    assert first == again
    for other in (place_of(6, 2, 7), place_of(5, 3, 7), place_of(5, 2, 8)):
        assert completed(place=other) != first
    # A row's stand-in does not depend on which rows are beside it; another visit of it has another one.
    alone = completed(batches=[[13]], q=1.0)[1][30]
    among = [r for r in completed(q=1.0)[1].values() if r.id == "r13"]
    assert among == [alone]
    visits = [r.image for r in completed(batches=[[13]] * 8, q=1.0)[1].values()]
    assert len(set(visits)) > 4


def tells_nothing(make: Callable[[list[Sample]], dict[int, Sample]], dataset: Dataset) -> None:
    """What stands in for a modality says nothing of the row, of its label, or of the data set.

    Raises:
        AssertionError: it does.
    """
    own_texts = {r.text for r in (*dataset.train, *dataset.val, *dataset.test)} - {None}
    own_images = {r.image for r in (*dataset.train, *dataset.val, *dataset.test)} - {None}
    own_pixels = {pixels_key(image) for image in own_images}
    rows = [r.showing(image=i % 2 == 0, text=i % 2 == 1) for i, r in enumerate(dataset.train[:80])]
    made = make(rows)
    assert made
    for whole in made.values():
        given = next(r for r in rows if r.id == whole.id)
        if given.text is None:
            assert whole.text not in own_texts, "a stand-in is a text of the data set"
        else:
            assert whole.image not in own_images and pixels_key(whole.image) not in own_pixels, "an image of it"
    # Other content and other labels in the same places: the same stand-ins.
    turned = [
        dataclasses.replace(
            rows[i], label=rows[-1 - i].label, answer="(B)", id=rows[i].id,
            image=rows[i].image and rows[i - 2].image, text=rows[i].text and rows[i - 2].text,
        )
        for i in range(len(rows))
    ]  # fmt: skip
    for here, there in zip(made.values(), make(turned).values(), strict=True):
        kind = "text" if next(r for r in rows if r.id == here.id).text is None else "image"
        assert getattr(here, kind) == getattr(there, kind), "a stand-in depends on the row"


def test_stand_ins_tell_nothing_and_one_that_leaks_is_caught(federation, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = federation.data.dataset
    tokenizer, options = federation.mllm.tokenizer, federation.data.template.options

    def make(rows: list[Sample], text: str = "neutral") -> dict[int, Sample]:
        chosen = StandInsConfig(use="force", q=0.5, text=text)
        return StandIns(chosen, options, tokenizer).completed(rows, [list(range(len(rows)))], BOTH, PLACE)[1]

    tells_nothing(make, dataset)
    tells_nothing(lambda rows: make(rows, "tokens"), dataset)
    true = {r.id: r for r in dataset.train}

    def leaks_the_image(self, row, allowed, rng):
        return dataclasses.replace(row, image=true[row.id].image) if row.presence == "text" else None

    def leaks_the_text(self, row, allowed, rng):
        return dataclasses.replace(row, text=true[row.id].text) if row.presence == "image" else None

    def hints_at_the_label(self, row, allowed, rng):
        return dataclasses.replace(row, image=noise_image(row.label)) if row.presence == "text" else None

    def copies_the_pixels(self, row, allowed, rng):
        if row.presence != "text":
            return None
        copy = Path(noise_image(0)).parent / f"copy-{row.id}.png"
        Image.open(true[row.id].image).save(copy)
        return dataclasses.replace(row, image=str(copy))

    for leak in (leaks_the_image, leaks_the_text, hints_at_the_label, copies_the_pixels):
        monkeypatch.setattr(StandIns, "_whole", leak)
        with pytest.raises(AssertionError):
            tells_nothing(make, dataset)
    for copy in Path(noise_image(0)).parent.glob("copy-*.png"):
        copy.unlink()


def test_neutral_sentences_share_no_word_with_an_option() -> None:
    parts = stand_ins.neutral_phrases(("a bird", "river boat", "the wall", "very-slowly"))
    assert not any(word in phrase for part in parts for phrase in part for word in ("bird", "river", "wall", "slowly"))
    with pytest.raises(ConfigError, match=r"fedmllm\.stand_ins\.text is neutral, .* Set it to tokens\."):
        stand_ins.neutral_phrases((" ".join(stand_ins.ENDINGS), "x"))


def test_noise_images_are_made_when_they_are_asked_for_and_mended(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FS_FEDMLLM_CACHE", str(tmp_path))
    noise_image.cache_clear()
    try:
        completed(allowed=frozenset({"text"}), q=1.0)
        assert not list(tmp_path.rglob("*.png"))  # texts alone: no image is made
        path = Path(noise_image(3))
        assert [file.name for file in tmp_path.rglob("*.png")] == ["003.png"]
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), stand_ins.pixels(3))
        path.write_bytes(b"something else")
        noise_image.cache_clear()
        with Image.open(noise_image(3)) as picture:
            assert np.array_equal(np.asarray(picture), stand_ins.pixels(3))
    finally:
        noise_image.cache_clear()


def test_the_message_says_what_is_allowed() -> None:
    for allowed in (BOTH, frozenset(), frozenset({"text"})):
        assert allowed_in(telling(allowed)) == allowed
    assert allowed_in({"some.tensor": torch.ones(2)}) == frozenset()
    for nonsense in (torch.tensor(1.0), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(UpdateError, match="has the shape"):
            allowed_in({stand_ins.ALLOWED: nonsense})


def test_a_server_cannot_switch_on_what_a_clients_configuration_leaves_off(federation) -> None:
    side, plan = federation.clients, federation.clients.plan(1, 0, len(federation.data.clients[1]))
    assert side.completed(plan, 1, 0, telling(BOTH)) == (plan, {})
    side = dataclasses.replace(side, stand_ins=StandInsConfig(use="force", q=1.0, image="off"))
    for client, rows in federation.data.clients.items():
        plan = side.plan(client, 0, len(rows))
        _, made = side.completed(plan, client, 0, telling(BOTH))
        assert bool(made) == (rows[0].presence == "image")  # texts are stood in for, images are not


# --- The decision ---------------------------------------------------------------------------------------------------


class Asked:
    """A federation whose answers are given."""

    def __init__(self, config: schema.Config, answers: dict[int, tuple[float, float]], presence: Any):
        rows = tuple(row(i, "both") for i in range(100))
        self.config, self.presence, self.answers = config, presence, answers
        labelled = tuple(dataclasses.replace(r, label=i % 4) for i, r in enumerate(rows))

        class Data:
            dataset = Dataset("made up", "digits_triage", (), labelled, ())

        self.data, self.asked = Data(), []

    def right_alone(self, params: Any, rows: Any) -> dict[str, float]:
        self.asked.append(params["round"])
        return dict(zip(("image", "text"), self.answers[params["round"]], strict=True))


CROSS = {1: {"image": 5}, 2: {"text": 5}}


def decided(config: schema.Config, answers: dict[int, tuple[float, float]], presence: Any = None, rounds: int = 9):
    asked, entries = Asked(config, answers, presence or CROSS), []
    for index in range(rounds):
        entry = decision(asked, index, {"round": index}, entries)
        if entry is not None:
            entries.append(entry)
    return asked, entries


def test_validation_rows_are_asked_again_and_an_answer_may_be_taken_back(short_config) -> None:
    """100 rows of four labels: chance 0.25, two standard errors 0.0866."""
    config = short_config("cross_i3t7", *AUTO, "fedmllm.eval.limit", 0)
    answers = {2: (0.25, 0.30), 4: (0.34, 0.25), 6: (0.34, 0.90), 8: (0.3366, 0.34)}
    asked, entries = decided(config, answers)
    assert asked.asked == [2, 4, 6, 8] and [entry["round"] for entry in entries] == [0, 2, 4, 6, 8]
    assert (
        entries[2]["bound"] == pytest.approx(0.25 + 2 * (0.25 * 0.75 / 100) ** 0.5) == pytest.approx(0.3366, abs=1e-4)
    )
    # Images alone decide: texts may be stood in for, and the other way round.
    assert [(e["image"], e["text"]) for e in entries] == [
        (False, False), (False, False), (False, True), (True, True), (True, False)
    ]  # fmt: skip
    assert allowed_by(entries) == {"image"} and allowed_by([]) == frozenset()
    assert (
        "Round 8: stand-ins for images on, for texts off (of 100 complete validation rows texts alone decide 0.340"
        in (sentence(entries[-1]))
    )


def test_auto_asks_nothing_where_a_client_has_a_complete_row(short_config) -> None:
    config = short_config("hybrid_p60", *AUTO)
    presence = {**CROSS, 3: {"both": 1, "text": 99}}
    asked, entries = decided(config, {}, presence)
    assert asked.asked == [] and len(entries) == 1
    assert entries[0] == {"round": 0, "image": False, "text": False, "why": "clients have complete rows"}
    ours = config.fedmllm.stand_ins
    assert stand_in_kinds(ours, presence) == frozenset() and stand_in_kinds(ours, CROSS) == BOTH
    forced = short_config("hybrid_p60", "fedmllm.stand_ins.use", "force", "fedmllm.stand_ins.guard", "none")
    asked, entries = decided(forced, {}, presence)
    assert asked.asked == [] and [(e["image"], e["text"], e["why"]) for e in entries] == [(True, True, "no guard")]


def test_what_is_off_is_not_decided_on(short_config) -> None:
    config = short_config("cross_i3t7", *AUTO, "fedmllm.stand_ins.image", "off", "fedmllm.eval.limit", 0)
    _, entries = decided(config, dict.fromkeys((2, 4, 6, 8), (0.9, 0.9)))
    assert {(e["image"], e["text"]) for e in entries[1:]} == {(False, True)}
    assert decided(short_config("cross_i3t7"), {})[1] == []


def test_the_first_round_is_never_asked_about(short_config) -> None:
    config = short_config("cross_i3t7", *AUTO)
    assert [index for index in range(8) if guard_asks(config, index)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fedmllm.stand_ins.q", 0.3), r"stand_ins\.q is set, and fedmllm\.stand_ins\.use is off"),
        ((*AUTO, "fedmllm.stand_ins.image", "off", "fedmllm.stand_ins.text", "off"), "image and text are both off"),
        ((*AUTO, "federate.method", "local"), "has no server that could decide"),
        ((*AUTO, "fedmllm.privacy.dp.clip_norm", 1, "fedmllm.privacy.dp.noise_multiplier", 1), "does not account for"),
        ((*AUTO, "fedmllm.stand_ins.q", 0), r"q is 0\.0; it must be in \(0, 1\]"),
    ],
)
def test_refusals(short_config, words, says) -> None:
    with pytest.raises(ConfigError, match=says):
        short_config("cross_i3t7", *words)


def test_open_answers_and_a_server_without_complete_validation_rows_are_refused(short_config) -> None:
    config = short_config("cross_i3t7", *AUTO)
    with pytest.raises(ConfigError, match=r"fedmllm\.stand_ins\.use is auto, .* are open"):
        fitting_template(config, Dataset("questions", "medical", (), (), ()))
    halves = Dataset("halves", "digits_triage", (), (row(1, "image"), row(2, "text")), ())
    with pytest.raises(ConfigError, match="has no validation row at the server that shows both"):
        check_stand_ins(config, halves)
    check_stand_ins(short_config("cross_i3t7", *AUTO, "fedmllm.stand_ins.guard", "none"), halves)


# --- Runs -----------------------------------------------------------------------------------------------------------


def test_a_guarded_run_is_the_plain_run_until_the_guard_lets_stand_ins_in_and_it_resumes(
    short_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rounds; before the third the guard is asked, and says yes."""
    from fs_fedmllm.rounds.federation import Federation

    words = ("federate.total_round_num", 4, "eval.freq", 4, "expname")
    monkeypatch.setattr(Federation, "right_alone", lambda self, state, rows: {"image": 1.0, "text": 1.0})
    whole, folder = run(short_config("cross_i3t7", *words, "whole", *AUTO))
    decisions = whole["stand_ins"]
    assert [(d["round"], d["image"], d["text"]) for d in decisions] == [(0, False, False), (2, True, True)]
    assert decisions[1]["rows"] == 16 and decisions[1]["why"] == "validation rows"
    plain, plain_folder = run(short_config("cross_i3t7", *words, "plain"))
    losses = [
        [json.loads(line) for line in (f.path / "metrics.jsonl").read_text().splitlines()]
        for f in (folder, plain_folder)
    ]
    turns = [[(t["round"], t["client"], t["loss"]) for t in lines if t["kind"] == "turn"] for lines in losses]
    assert turns[0][:4] == turns[1][:4] and [t[:2] for t in turns[0]] == [t[:2] for t in turns[1]]
    assert all(one[2] != other[2] for one, other in zip(turns[0][4:], turns[1][4:], strict=True))
    assert "stand_ins" not in plain
    # Interrupted after the third round, it goes on to the same bytes and the same decisions.
    from fs_fedmllm.runs.session import Session

    ended = Session.checkpoint

    def interrupted(self: Session) -> None:
        ended(self)
        if self.state.round == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(short_config("cross_i3t7", *words, "again", *AUTO))
    again, _ = run(short_config("cross_i3t7", *words, "again", *AUTO))
    assert again["adapter_sha256"] == whole["adapter_sha256"] != plain["adapter_sha256"]
    assert again["stand_ins"] == decisions


def test_evaluation_never_sees_a_stand_in(short_config, monkeypatch: pytest.MonkeyPatch) -> None:
    from fs_fedmllm.evaluation.evaluator import Evaluator
    from fs_fedmllm.models.encoding import Encoder

    evaluating: list[bool] = []
    encode, seen = Encoder.encode, {True: 0, False: 0}

    def watched(self, samples, **more):
        seen[bool(evaluating)] += sum("noise-v1" in (r.image or "") for r in samples)
        return encode(self, samples, **more)

    predict = Evaluator.predict

    def judged(self, *args, **kwargs):
        evaluating.append(True)
        try:
            return predict(self, *args, **kwargs)
        finally:
            evaluating.pop()

    monkeypatch.setattr(Encoder, "encode", watched)
    monkeypatch.setattr(Evaluator, "predict", judged)
    run(short_config("cross_i3t7", "fedmllm.stand_ins.use", "force", "fedmllm.stand_ins.guard", "none",
                     "fedmllm.eval.slices", "always"))  # fmt: skip
    assert seen[False] > 0 and seen[True] == 0


def test_the_bare_word_off_is_off(tmp_path: Path) -> None:
    """YAML reads it as False."""
    file, text = tmp_path / "one.yaml", (CONFIGS / "cross_i3t7.yaml").read_text()
    file.write_text(text + "  stand_ins: {use: auto, image: off}\n")
    assert schema.load(file).fedmllm.stand_ins == StandInsConfig(use="auto", image="off")
    file.write_text(text + "  stand_ins: {use: off}\n")
    assert schema.load(file).fedmllm.stand_ins == StandInsConfig()
    file.write_text(text + "  stand_ins: {use: on}\n")
    with pytest.raises(ConfigError, match=r"one\.yaml: fedmllm\.stand_ins\.use must be a text, and YAML reads True"):
        schema.load(file)


def test_a_plan_counts_what_stand_ins_cost(short_config) -> None:
    """The guard's rows, the tower's passes over noise, and the longer steps; nothing where they are off."""
    from fs_fedmllm.scenarios.federated_data import prepare_data
    from fs_fedmllm.tools.planner.work import count_work

    words = ("federate.total_round_num", 5, "fedmllm.eval.limit", 16)
    config = short_config("cross_i3t7", *words, *AUTO)
    data = prepare_data(config)
    plain, planned = count_work(short_config("cross_i3t7", *words), data), count_work(config, data)
    assert planned.scored - plain.scored == 2 * 16 * 2  # two views of 16 rows, before the rounds 2 and 4
    assert 0 < planned.images - plain.images <= stand_ins.POOL
    assert len(planned.heaviest) == 2 * len(plain.heaviest)
    assert {row.presence for batch in planned.heaviest[len(plain.heaviest) :] for row in batch} == {"both"}
    assert (planned.steps, planned.rows, planned.turns) == (plain.steps, plain.rows, plain.turns)
    hybrid = short_config("hybrid_p60", *words, *AUTO)
    there = prepare_data(hybrid)
    assert count_work(hybrid, there).scored == count_work(short_config("hybrid_p60", *words), there).scored
