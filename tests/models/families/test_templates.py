"""What each family's model is taught is what its own chat template says, token by token, and it stops there."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import twins
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from fs_fedmllm.config import EvaluatorConfig, ModelOptions
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.evaluation.evaluator import Evaluator
from fs_fedmllm.models.completions import Completions, answering, asking, end_tokens, turn_of
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.families.base import Family
from fs_fedmllm.models.loader import load_mllm
from fs_fedmllm.models.row_text import RowText
from fs_fedmllm.tools.adapters.predict import free_question

NAMES = [*twins.BUILDERS, "minicpmv_legacy"]
#: LLaVA-OneVision's template writes "assistant \n" in a conversation and "assistant\n" to ask.
ASKS_OTHERWISE = {"llava_onevision"}
#: What stands between the generation prompt and an answer, and behind it, where that is not the end of a turn alone.
SPACED = {"llava": " ", "idefics3": " ", "smolvlm": " "}


@pytest.fixture(scope="module")
def mllm_of(twin):
    return lambda name: load_mllm(ModelOptions(path=str(twin(name)), trust_remote_code=name == "minicpmv_legacy"))


@pytest.fixture
def picture(tmp_path) -> str:
    Image.linear_gradient("L").resize((48, 32)).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def _by_transformers(mllm, messages, picture: str | None) -> list[int]:
    """Token ids of a conversation as transformers' own ``apply_chat_template`` has them."""
    if mllm.family.name == "minicpmv_legacy":  # a processor of another time; its conversation is a text
        chat = mllm.family.render(mllm.processor, messages)
        if picture is None:
            return mllm.tokenizer(chat, add_special_tokens=False)["input_ids"]
        return mllm.family.process(mllm.processor, chat, Image.open(picture), {})["input_ids"][0].tolist()
    shown = [
        {**m, "content": [{"type": "image", "image": Image.open(picture)} if p["type"] == "image" else p
                          for p in m["content"]]} for m in messages
    ]  # fmt: skip
    whole = mllm.processor.apply_chat_template(shown, tokenize=True, return_dict=True, return_tensors="pt")
    return whole["input_ids"][0].tolist()


@pytest.mark.parametrize("pictured", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_completion_are_the_whole_conversation(name: str, pictured: bool, mllm_of, picture: str) -> None:
    mllm = mllm_of(name)
    encoder = Encoder(mllm, free_question(None), "original", None)
    for answer in ("yes", "(A) lower billing", "7 cm", " spaced ", "\u00e9t\u00e9"):
        row = Sample("1", picture if pictured else None, None, answer, question="Is this a heart?")
        found = encoder.encode([row])[0]
        asked = asking("Is this a heart?", image=pictured)
        if name == "minicpmv_legacy" and pictured:
            asked["content"] = [{"type": "text", "text": "(<image>./</image>)\nIs this a heart?"}]
        whole = _by_transformers(mllm, [asked, answering(answer)], picture if pictured else None)
        added = [] if encoder.completions.appended is None else [encoder.completions.appended]
        if name in ASKS_OTHERWISE:
            whole_text = mllm.family.render(mllm.processor, [asked, answering(answer)])
            prompt = mllm.family.render(mllm.processor, [asked], add_generation_prompt=True)
            assert not whole_text.startswith(prompt) and prompt.endswith("assistant\n")
            assert encoder.tokens(f"{answer}<|im_end|>") == found.completion
            continue
        assert [*found.prompt, *found.completion] == [*whole, *added]
        assert set(found.completion) & set(encoder.completions.stops), "nothing ends the answer"
        assert encoder.completions.turn.before == SPACED.get(name, "")
        if pictured:
            placeholder = {"minicpmv_legacy": "<unk>"}.get(name) or mllm.processor.image_token
            if name == "gemma3":
                placeholder = "<image_soft_token>"
            image = mllm.tokenizer.convert_tokens_to_ids(placeholder)
            assert found.prompt.count(image) == whole.count(image) > 0


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*ASKS_OTHERWISE, "minicpmv_legacy")])
def test_a_system_turn_changes_nothing_behind_it(name: str, mllm_of) -> None:
    """The completion is the same after a system's turn and after several turns."""
    mllm = mllm_of(name)
    completions = Encoder(mllm, free_question(None), "original", None).completions
    system = {"role": "system", "content": [{"type": "text", "text": "You read radiographs."}]}
    earlier = [asking("Which organ?", image=False), answering("The lung.")]
    for before in ([system], earlier, [system, *earlier]):
        asked = [*before, asking("Is this a heart?", image=False)]
        prompt = mllm.family.render(mllm.processor, asked, add_generation_prompt=True)
        whole = mllm.family.render(mllm.processor, [*asked, answering("yes")])
        added = () if completions.appended is None else (completions.appended,)
        plain = RowText(mllm.processor, mllm.family)
        assert plain.tokens(whole) + added == plain.tokens(prompt) + completions.ids("yes")


@pytest.mark.parametrize("name", NAMES)
def test_beginnings_are_those_that_transformers_writes(name: str, mllm_of) -> None:
    """A beginning is written once, by the template or by the tokenizer."""
    mllm = mllm_of(name)
    encoder = Encoder(mllm, free_question(None), "original", None)
    found = encoder.encode([Sample("1", None, None, "yes", question="Is it?")])[0].prompt
    start = mllm.tokenizer.bos_token_id
    assert found.count(start) == (0 if start is None else 1)
    assert encoder.completions.lead == ((start,) if name == "llava" else ())


class _Says(LogitsProcessor):
    """Makes the model write what it is told, and then on and on."""

    def __init__(self, ids, on):
        self.ids, self.on, self.at = list(ids), on, 0

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -1e9)
        forced[:, self.ids[self.at] if self.at < len(self.ids) else self.on] = 0.0
        self.at += 1
        return forced


@pytest.mark.parametrize("name", NAMES)
def test_generation_stops_where_the_completion_does(name: str, mllm_of, picture: str, monkeypatch) -> None:
    mllm = mllm_of(name)
    evaluator = Evaluator(Encoder(mllm, free_question(None), "original", None), EvaluatorConfig(max_new_tokens=40))
    completions = evaluator.encoder.completions
    words = mllm.tokenizer("on and on", add_special_tokens=False)["input_ids"]
    owner = mllm.inner.llm if name == "minicpmv_legacy" else mllm.inner
    original, lengths = owner.generate, []

    def generate(**arguments):
        told = _Says(completions.ids("lower billing")[len(completions.opening) :], words[-1])
        output = original(**arguments, logits_processor=LogitsProcessorList([told]))
        lengths.append(told.at)
        return output

    monkeypatch.setattr(owner, "generate", generate)
    row = Sample("1", picture, None, "", question="Which desk?")
    assert evaluator.generate([row]) == ["lower billing"]
    assert lengths[0] <= len(completions.ids("lower billing")) < 40


def test_a_template_that_never_ends_a_turn_gets_an_end(mllm_of) -> None:
    """LLaVA 1.5's writes a blank behind an answer, which ends nothing."""
    mllm = mllm_of("llava")
    completions = Encoder(mllm, free_question(None), "original", None).completions
    assert completions.turn.after == " " and completions.appended == mllm.tokenizer.eos_token_id
    assert completions.ids("yes")[-1] == completions.appended
    gemma = Encoder(mllm_of("gemma3"), free_question(None), "original", None).completions
    assert gemma.appended is None, "its generation configuration lists the end of a turn"


# Templates alone, on a plain tokenizer ---------------------------------------------------------------------------


def _completions(template: str, *, flat: bool = False) -> Completions:
    """Of a template on Qwen's tokens; a ``flat`` one takes contents that are texts."""
    tok = twins.tokenizer("qwen3_vl")
    tok.chat_template = template

    def write(messages, **options):
        texts = [{**m, "content": m["content"][0]["text"]} for m in messages]
        return tok.apply_chat_template(texts if flat else messages, **options)

    processor = SimpleNamespace(tokenizer=tok, apply_chat_template=write)
    row_text = RowText(processor, Family("test"))
    return Completions(Family("test"), processor, row_text, end_tokens(tok, SimpleNamespace(eos_token_id=[1, 0])))


def test_an_empty_thought_is_learnt_and_generation_begins_behind_it() -> None:
    """Qwen3 asks with the header alone, and writes an empty thought in a conversation."""
    completions = _completions(twins.template("qwen3"), flat=True)
    tok = completions._row_text._original.tokenizer
    assert completions.turn.before == "<think>\n\n</think>\n\n"
    assert tok.decode(completions.ids("yes")) == "<think>\n\n</think>\n\nyes<|im_end|>\n"
    assert tok.decode(completions.opening) == "<think>\n\n</think>\n\n"
    assert completions.without_opening("<think>\n\n</think>\n\nyes") == completions.without_opening(" yes ") == "yes"


def test_a_prompt_that_a_conversation_joins_stays_as_it_is_asked() -> None:
    """Qwen3.5, thinking: asked with an open thought and a line break, which a conversation's two breaks absorb."""
    completions = _completions(twins.template("qwen3_5_think"))
    tok = completions._row_text._original.tokenizer
    asked = tok(completions.turn.prompt, add_special_tokens=False)["input_ids"]
    whole = tok(completions._whole("yes"), add_special_tokens=False)["input_ids"]
    text = tok.decode([*asked, *completions.ids("yes")])
    assert text == tok.decode(whole) and text.endswith("<think>\n\n</think>\n\nyes<|im_end|>\n")
    nothink = _completions(twins.template("qwen3_5_nothink"))
    assert nothink.turn.before == "" and tok.decode(nothink.ids("yes")) == "yes<|im_end|>\n"


def test_a_thought_that_a_conversation_drops_is_closed() -> None:
    """A prompt that opens a thought, and conversations without it: the answer does not become a thought."""
    chat = twins.template("qwen2").replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    completions = _completions(chat, flat=True)
    tok = completions._row_text._original.tokenizer
    assert completions.turn.prompt.endswith("<think>\n")
    assert tok.decode(completions.ids("yes")) == "\n</think>\n\nyes<|im_end|>\n"
    closed = _completions(chat.replace("<think>\n'", "<think>\n\n</think>\n\n'"), flat=True)
    assert tok.decode(closed.ids("yes")) == "yes<|im_end|>\n"


def test_a_template_without_a_generation_prompt() -> None:
    """LLaVA-NeXT on Mistral asks with the end of the user's turn."""
    chat = twins.template("llava_next")
    tok = twins.metaspace("llava", first=True)
    tok.chat_template = chat
    processor = SimpleNamespace(tokenizer=tok, apply_chat_template=tok.apply_chat_template)
    completions = Completions(Family("t"), processor, RowText(processor, Family("t")), end_tokens(tok, None))
    assert completions.turn.prompt == "[INST] ? [/INST]" and completions.turn.before == " "
    assert tok.decode(completions.ids("yes")) == "yes</s> " or "yes</s>" in tok.decode(completions.ids("yes"))
    assert completions.appended is None and completions.stops == (tok.eos_token_id,)


def test_templates_that_lose_an_answer_are_refused() -> None:
    chat = twins.template("qwen2")
    with pytest.raises(ModelError, match="drops the assistant's answer, or repeats it"):
        _completions(chat.replace("{% for message in messages %}", "{% for message in messages[:1] %}"), flat=True)
    cut = chat.replace("message['content']", "message['content'].split('###')[0]")
    with pytest.raises(ModelError, match="keeps only a part of the answer 'yes ### no'"):
        _completions(cut, flat=True).ids("yes ### no")


def test_copies_are_those_that_trl_has() -> None:
    """The published templates here against the ones that TRL ships."""
    utils = pytest.importorskip("trl.chat_template_utils", reason="NOT RUN: trl is not installed")
    folder = utils._CHAT_TEMPLATES_DIR
    compared = [file.name for file in twins.TEMPLATES.glob("*.jinja") if (folder / file.name).is_file()]
    assert {"smolvlm.jinja", "idefics3.jinja", "gemma3.jinja", "qwen3_vl.jinja"} <= set(compared)
    for name in compared:
        assert (twins.TEMPLATES / name).read_text().rstrip("\n") == (folder / name).read_text().rstrip("\n"), name


def test_forced_choice_reads_the_templates_space(mllm_of) -> None:
    """The options' deciding tokens are the letters that the template's completions have."""
    template = load_template("digits_triage")
    for name in ("smolvlm", "llava", "minicpmv4_6"):
        encoder = Encoder(mllm_of(name), template, "original", None)
        tokens = Evaluator(encoder, EvaluatorConfig())._options
        read = [encoder.tokens("x") and encoder.mllm.tokenizer.decode([i]) for i in tokens.decisions]
        assert [letter.strip("( )") for letter in read] == list("ABCDEFGH"), (name, read)
        assert tokens.prefix == encoder.completion(template.answer(0))[: len(tokens.prefix)]


def test_turns_are_looked_at_with_what_comes_before(mllm_of) -> None:
    mllm = mllm_of("smolvlm")
    turn = turn_of(lambda messages, **o: mllm.family.render(mllm.processor, messages, **o), [asking("?", image=True)])
    assert turn == dataclasses.replace(turn, before=" ", after="<end_of_utterance>\n")


def test_how_answers_are_written_is_told(mllm_of, picture: str, monkeypatch) -> None:
    """The checkpoint's generation configuration shapes them but for sampling, and its stop strings end them."""
    mllm = mllm_of("internvl")
    evaluator = Evaluator(Encoder(mllm, free_question(None), "original", None), EvaluatorConfig(max_new_tokens=8))
    assert evaluator.decoding() == {"do_sample": False, "max_new_tokens": 8, "stops": ["<|im_end|>"]}
    stated = mllm.inner.generation_config
    monkeypatch.setattr(stated, "stop_strings", ["e"])
    monkeypatch.setattr(stated, "repetition_penalty", 1.3)
    assert evaluator.decoding() == {
        **{"do_sample": False, "max_new_tokens": 8, "stops": ["<|im_end|>"]},
        **{"stop_strings": ["e"], "repetition_penalty": 1.3},
    }
    original, told = (
        mllm.inner.generate,
        _Says(mllm.tokenizer("the desk is", add_special_tokens=False)["input_ids"], 9),
    )
    monkeypatch.setattr(
        mllm.inner, "generate", lambda **more: original(**more, logits_processor=LogitsProcessorList([told]))
    )
    said = evaluator.generate([Sample("1", picture, None, "", question="Which desk?")])[0]
    assert "e" in said and said.count("desk") == 0, "the stop string did not end it"
    scored = Evaluator(Encoder(mllm, load_template("digits_triage"), "original", None), EvaluatorConfig())
    assert scored.decoding() is None
    drawn = Evaluator(scored.encoder, EvaluatorConfig(), {"decision": "sampled_text"}).decoding()
    assert drawn is not None and drawn["do_sample"] and drawn["repetition_penalty"] == 1.05


@pytest.mark.parametrize("name", ["gemma3", "llava", "smolvlm", "qwen3_vl"])
def test_an_image_goes_through_the_processor_once(name: str, mllm_of, picture: str, monkeypatch) -> None:
    """However many rows show it; their tokens are those of the whole conversation (above)."""
    mllm = mllm_of(name)
    encoder, seen = Encoder(mllm, free_question(None), "original", None), []
    process = type(mllm.family).process
    monkeypatch.setattr(type(mllm.family), "process", lambda *given: seen.append(1) or process(*given))
    rows = [Sample(str(i), picture, None, "yes", question=f"\n\n Is it {i}?\n <image> ") for i in range(5)]
    found = encoder.encode(rows)
    assert len(seen) == 1
    for row, encoded in zip(rows, found, strict=True):
        assert all(len(values) == len(encoded.prompt) for values in encoded.extras.values())
        # By the processor as a whole.
        hidden, _ = encoder._hidden_prompt(row)
        processor = encoder._row_text.processor if hidden.pieces else mllm.processor
        whole = encoder.images.process(encoder._chat(hidden.text, True), picture, "", processor)
        extras = {k: tuple(v[0].tolist()) for k, v in whole.items()
                  if k not in ("input_ids", "attention_mask") and v.shape == whole["input_ids"].shape}  # fmt: skip
        ids, wanted = encoder._row_text.restore(tuple(whole["input_ids"][0].tolist()), extras, hidden.pieces)
        lead = encoder.completions.lead
        assert encoded.prompt == (*lead, *ids)
        assert encoded.extras == {k: (*(0 for _ in lead), *v) for k, v in wanted.items()}


@pytest.mark.parametrize("name", ["smolvlm", "internvl", "gemma3", "qwen2_5_vl", "qwen3_vl"])
def test_trls_collator_makes_the_same_tokens(name: str, mllm_of, picture: str) -> None:
    """What ``data export`` writes, read by TRL's own collator, is what a run trains on; else it is told."""
    pytest.importorskip("trl", reason="NOT RUN: trl is not installed")
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from fs_fedmllm.data.conversations import conversation
    from fs_fedmllm.sft.export import differences

    mllm = mllm_of(name)
    encoder = Encoder(mllm, free_question(None), "original", None)
    row = Sample("1", picture, None, "yes", question="Is this a heart?")
    told = conversation(row, encoder.template)
    collator = DataCollatorForVisionLanguageModeling(mllm.processor, completion_only_loss=True)
    batch = collator([{**told, "images": [Image.open(picture)]}])
    found = encoder.encode([row])[0]
    assert batch["input_ids"][0].tolist() == [*found.prompt, *found.completion]
    assert batch["labels"][0][batch["labels"][0] != -100].tolist() == list(found.completion)
    assert differences(encoder.completions, mllm.tokenizer) == []
    other = Encoder(mllm_of("llava"), free_question(None), "original", None)
    first, second = differences(other.completions, other.mllm.tokenizer)
    assert "teaches no end of an answer" in first and "appends </s>" in first and "leaves out the <s>" in second
