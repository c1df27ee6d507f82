"""Templates of two lines, and what is derived from them."""

from __future__ import annotations

import json

import pytest
import yaml

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.short_templates import CASES, CLOSING, VARIANTS
from fs_fedmllm.data.template import template_content
from fs_fedmllm.data.template_file import build_template, load_template
from fs_fedmllm.errors import TemplateError
from fs_fedmllm.models.adapter_folder import template_mapping
from fs_fedmllm.runs.belongings import template_sha256


def short(**raw):
    return build_template(raw, "t.yaml", "t")


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("digits_triage", "Which desk should take the request?"),
        ("hateful_memes", " Is the content hateful ? "),
    ],
)
def test_a_short_template_is_the_one_that_ships(name, question):
    whole = load_template(name)
    made = build_template(
        {"question": question, "options": list(whole.options), "metric": whole.metric}, f"{name}.yaml", name
    )
    assert made == whole
    assert template_sha256(made) == template_sha256(whole)


def test_open_answers():
    asked = short(task="vqa")
    assert asked.cases == load_template("medical").cases and asked.question == ""
    fixed = short(question="What does the picture show?")
    assert (fixed.task, fixed.metric, fixed.options) == ("vqa", "accuracy", ())
    assert fixed.question == "What does the picture show?" and fixed.cases == asked.cases
    assert template_content(fixed)["question"] and "question" not in template_content(asked)
    again = build_template(json.loads(json.dumps(template_mapping(fixed))), "fedmllm.json", "t")
    assert again == fixed


def test_each_of_the_eight_can_be_written_down():
    plain = short(question="Is it red", options=["no", "yes"])
    for variant in VARIANTS:
        for case in CASES:
            one = short(question="Is it red", options=["no", "yes"], **{variant: {case: {"question": "Red or not"}}})
            changed = [(v, c) for v in VARIANTS for c in CASES if one.cases[v][c] != plain.cases[v][c]]
            assert changed == [(variant, case)]
            assert one.cases[variant][case].question == "Red or not"
            assert one.cases[variant][case].basis == plain.cases[variant][case].basis
    own = short(question="Is it red", options=["no", "yes"], instruction="Look", closing="Say:")
    assert (own.instruction, own.closing) == ("Look", "Say:")
    open_one = short(task="vqa", original={"image": "Look. {question}"})
    assert open_one.cases["original"]["image"].question == "Look. {question}"
    assert open_one.cases["original"]["text"].question == "{question}"


def test_options_that_are_not_listed():
    whole, bare = (short(question="Is it red", options=["no", "yes"], **more) for more in ({}, {"listed": False}))
    row = Sample(id="r", text="A rose.", image=None, answer="", label=1)
    for variant in VARIANTS:
        assert "\nOptions:\n(A) no\n(B) yes\n" in whole.prompt(row, variant)
        assert bare.prompt(row, variant) == whole.prompt(row, variant).replace("\nOptions:\n(A) no\n(B) yes", "")
    assert bare.answer(1) == whole.answer(1) == "(B) yes"
    assert template_sha256(bare) != template_sha256(whole)
    assert "listed" not in template_content(whole) and "listed" not in template_mapping(whole)
    again = build_template(json.loads(json.dumps(template_mapping(bare))), "fedmllm.json", "t")
    assert again == bare


def test_options_without_letters():
    lettered, plain = (short(question="Is it red", options=["no ", "yes"], **m) for m in ({}, {"lettered": False}))
    row = Sample(id="r", text="A rose.", image=None, answer="(B) yes", label=1)
    assert "?\nOptions:\nno\nyes\nAnswer with the best option in its own words" in plain.prompt(row)
    assert (plain.answer(0), plain.answer_of(row), lettered.answer_of(row)) == ("no", "yes", "(B) yes")
    assert plain.answer_of(Sample(id="r", text="A rose.", image=None, answer="?", label=None)) == "?"
    assert template_sha256(plain) != template_sha256(lettered)
    assert "lettered" not in template_content(lettered) and "lettered" not in template_mapping(lettered)
    assert build_template(json.loads(json.dumps(template_mapping(plain))), "fedmllm.json", "t") == plain
    own = short(question="Is it red", options=["no", "yes"], lettered=False, closing="Say:")
    assert own.closing == "Say:"


EIGHT = {variant: {case: {"basis": "", "question": "Red"} for case in CASES} for variant in VARIANTS}


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({}, "say what rows are asked"),
        ({"options": ["a", "b"]}, "the key 'question' is missing"),
        ({"options": ["a", "b"], "original": EIGHT["original"]}, "the key 'question' is missing"),
        ({"question": "  ", "options": ["a", "b"]}, "question is blank"),
        ({"question": "?", "options": ["a", "b"]}, "question is blank"),
        ({"question": "Is it {colour}", "options": ["a", "b"]}, "question has {colour}"),
        ({"question": False, "options": ["a", "b"]}, "question: YAML reads this as False"),
        ({"question": "Red", "options": [False, True]}, "option 1 of options: YAML reads this as False"),
        ({"question": "Red", "options": ["a"]}, "a choice needs 2 to 26 options"),
        ({"question": "Red", "options": ["a", "b"], **EIGHT}, "question is shown nowhere"),
        ({"question": "Red", "options": ["a", "b"], "original": {"images": {}}}, "original may have the keys"),
        ({"question": "Red", "options": ["a", "b"], "original": {"image": {"ask": "x"}}}, "original.image must be a"),
        ({"question": "Red", "options": ["a", "b"], "task": "vqa"}, "options have no meaning"),
        ({"question": "Red", "options": ["a", "b"], "listed": "no"}, "listed must be True or False"),
        ({"question": "Red", "listed": False}, "listed must be True or False"),
        ({"question": "Red", "options": ["a", "b"], "lettered": 0}, "lettered must be True or False"),
        ({"question": "Red", "lettered": False}, "lettered must be True or False"),
        (
            {"question": "Red", "options": ["a", "b"], "lettered": False, "closing": CLOSING},
            "closing asks for the option's letter, and with lettered: false options have none",
        ),
        ({"question": "Red", "closing": "Say:"}, "closing is of a choice's prompt"),
        ({"question": "Red", "metric": "macro_f1"}, "metric macro_f1 needs options"),
        ({"question": "Red", "optoins": ["a", "b"]}, "did you mean 'options'"),
        ({"task": "vqa", "original": {"image": "Look"}}, "must be a text that contains {question}"),
        ({"task": "vqa", "original": {"image": None}}, "must be a text that contains {question}"),
    ],
)
def test_what_is_half_said_is_refused(raw, match):
    with pytest.raises(TemplateError, match=match):
        short(**raw)


@pytest.fixture
def ward(tmp_path):
    """Rows without a question of their own, and a template that has it."""
    root = tmp_path / "ward"
    root.mkdir()
    rows = [{"id": f"r{i}", "text": f"note {i}", "answer": f"finding {i % 3}"} for i in range(12)]
    rows[3]["question"] = "And here?"
    for name, part in (("train", rows[:8]), ("test", rows[8:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (root / "ask.yaml").write_text("question: What is found?\n")
    config = tmp_path / "ward.yaml"
    raw = {
        "data": {"type": "own", "root": str(root), "splitter": "fedmllm_aligned", "splitter_args": [{"by": "kind"}]},
        "federate": {"client_num": 2},
        "fedmllm": {"template": "ask.yaml"},
    }
    config.write_text(yaml.safe_dump(raw))
    return config, root


def test_rows_without_a_question_take_the_templates(ward):
    from fs_fedmllm import config as schema
    from fs_fedmllm.scenarios.federated_data import prepare_data

    data = prepare_data(schema.load(ward[0], ["eval.best_res_update_round_wise_key", "test_acc"]))
    rows = {row.id: row for row in data.dataset.train}
    assert rows["r0"].question == "What is found?" and rows["r3"].question == "And here?"
    assert data.template.prompt(rows["r0"]) == "note 0\nWhat is found?"


def test_what_is_shown_is_what_the_model_sees(ward, capsys):
    from fs_fedmllm import config as schema
    from fs_fedmllm.cli import main
    from fs_fedmllm.models.encoding import Encoder
    from fs_fedmllm.models.lengths import configured_lengths
    from fs_fedmllm.models.loader import load_mllm
    from fs_fedmllm.scenarios.federated_data import prepare_data

    words = ["data.type", "digits_triage", "data.splitter", "fedmllm_aligned", "federate.client_num", "2"]
    config = schema.from_mapping(
        {"data": {"type": "digits_triage", "splitter": "fedmllm_aligned"}, "federate": {"client_num": 2}}
    )
    path = ward[0].parent / "digits.yaml"
    path.write_text(yaml.safe_dump({"data": {"type": "digits_triage", "splitter": "fedmllm_aligned"},
                                    "federate": {"client_num": 2}}))  # fmt: skip
    data = prepare_data(config)
    mllm = load_mllm(config.model.fedmllm)
    encoder = Encoder(mllm, data.template, "original", None, configured_lengths(config, mllm))
    (row,) = encoder.encode(data.dataset.train[:1])
    whole = mllm.tokenizer.decode(list(row.prompt), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert main(["data", "show", str(path), *words, "-n", "1"]) == 0
    said = capsys.readouterr().out
    image = mllm.tokenizer.decode([mllm.processor.image_token_id])
    count = whole.count(image)
    assert whole.replace(image * count, f"{image} (x {count})") in said
    # And what it is taught to write behind it, with the end of the turn.
    assert f"=> {mllm.tokenizer.decode(list(row.completion), skip_special_tokens=False)}" in said
    assert main(["data", "show", str(path), "-n", "1", "--plain"]) == 0
    assert image not in capsys.readouterr().out
    assert main(["data", "show", str(path), "-n", "1", "model.fedmllm.path", "nowhere/at-all"]) == 0
    shown = capsys.readouterr()
    assert "Without the model's chat template" in shown.err and "Which desk should take" in shown.out


def test_another_template_is_used_or_refused(ward):
    """Labels are indices of the data's own options: other options would give them other names."""
    from fs_fedmllm import config as schema
    from fs_fedmllm.errors import ConfigError, DataError
    from fs_fedmllm.scenarios.federated_data import prepare_data

    config, root = ward
    for name, part in (("train", range(8)), ("test", range(8, 12))):
        lines = [json.dumps({"id": f"r{i}", "text": f"note {i}", "label": i % 2}) for i in part]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    (root / "ask.yaml").write_text('question: What is found?\noptions: ["no", "yes"]\n')
    (root / "asked.yaml").write_text('question: What is there?\noptions: ["nothing", "something"]\n')

    def prompts(template):
        words = ["eval.best_res_update_round_wise_key", "test_acc", "data.splitter_args", "[{}]"]
        words += ["fedmllm.data", "{template: ask.yaml}", "fedmllm.template", str(template)]
        return prepare_data(schema.load(config, words)).template

    assert prompts("asked.yaml").options == ("nothing", "something")
    with pytest.raises(DataError, match=r"'digits_triage' has 8 options, and that of the rows, 'ask', has 2"):
        prompts("digits_triage")
    with pytest.raises(ConfigError, match=r"No prompt template '.*elsewhere/ask.yaml'"):
        prompts(root / "elsewhere" / "ask.yaml")  # the data's own is of the same name, and is not what was named
