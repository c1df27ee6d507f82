"""Chat templates that people bring: a row's text is written as it is, once, and the same every day, or it is said."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fs_fedmllm.config import ModelOptions
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.data.template_file import load_template
from fs_fedmllm.errors import ModelError
from fs_fedmllm.models import chat_template
from fs_fedmllm.models.encoding import Encoder
from fs_fedmllm.models.loader import TINY
from fs_fedmllm.models.skeleton import skeleton

OURS = (TINY / "chat_template.jinja").read_text()
TEXT, IMAGE = "{{ p['text'] }}", "{{ '<image>\n' }}"


@pytest.fixture(scope="module")
def mllm() -> Any:
    return skeleton(ModelOptions(path="tiny"))


@pytest.fixture
def with_template(mllm, monkeypatch):
    def change(template: str) -> Encoder:
        monkeypatch.setattr(mllm.processor, "chat_template", template)
        return Encoder(mllm, load_template("digits_triage"), "original", None)

    return change


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (OURS.replace(TEXT, "{{ p['text']|upper }}"), "changes, shortens or drops the user's text"),
        (OURS.replace(TEXT, "{{ p['text']|e }}"), "changes, shortens or drops"),
        (OURS.replace(TEXT, "{{ p['text']|striptags }}"), "changes, shortens or drops"),
        (OURS.replace(TEXT, "{{ p['text']|replace('\n', ' ') }}"), "changes, shortens or drops"),
        (OURS.replace(TEXT, "{{ p['text']|tojson }}"), "changes, shortens or drops"),
        (OURS.replace(TEXT, ""), "changes, shortens or drops"),
        (OURS.replace(TEXT, TEXT * 2), "repeats the user's text"),
        ("{{ ['a', 'b', 'c']|random }}" + OURS, "writes the same row otherwise each time"),
        ("{{ lipsum(1) }}" + OURS, "writes the same row otherwise each time"),
        ("\ufeff" + OURS, "begins with a byte order mark: save it as UTF-8 without one"),
        ("<image>" + OURS, r"writes an image's place \(<image>\) in a row without an image"),
        (
            OURS.replace("{{ '<|end|>' }}", "{% if m.role == 'assistant' %}<image>{% endif %}{{ '<|end|>' }}"),
            r"writes an image's place \(<image>\) beside an answer",
        ),
        ("{% set f = '%d' %}{{ strftime_now(f) }}" + OURS, "asks for the date in a form that is not written out"),
    ],
)
def test_what_a_template_makes_of_a_row_is_looked_at_before_anything_is_trained(template, said, with_template) -> None:
    with pytest.raises(ModelError, match=f"^The chat template of the checkpoint's processor {said}"):
        with_template(template)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (OURS.replace(IMAGE, "{{ '' }}"), "writes nothing where a row has an image"),
        (OURS.replace("<image>", "<image><image>"), r"writes 2 places \(<image>\) for one image"),
    ],
)
def test_how_a_template_writes_an_image_matters_where_a_row_has_one(template, said, with_template, tmp_path) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    encoder = with_template(template)
    texts = Sample(id="7", image=None, text="a red lamp", answer="", label=0, source="rows.csv:9")
    assert encoder.encode([texts])
    pictured = dataclasses.replace(texts, image=str(tmp_path / "a.png"), source="rows.csv:10")
    for look in (encoder.encode, encoder.count_shortened, lambda rows: encoder.tokens_of(rows[0])):
        with pytest.raises(
            ModelError, match=rf"^rows\.csv:10: The chat template of the checkpoint's processor {said}"
        ):
            look([pictured])


def test_a_row_that_a_template_shortens_or_refuses_is_named(with_template) -> None:
    long = Sample(id="7", image=None, text="a red lamp " * 60, answer="", label=0, source="rows.csv:9")
    encoder = with_template(OURS.replace(TEXT, "{{ p['text'][:500] }}"))
    for look in (encoder.encode, encoder.count_shortened):
        with pytest.raises(ModelError, match=r"^rows\.csv:9: The chat template .* changes, shortens or drops"):
            look([long])
    refusing = "{% if p['text']|length > 500 %}{{ raise_exception('too long') }}{% endif %}"
    encoder = with_template(OURS.replace(TEXT, refusing + TEXT))
    with pytest.raises(ModelError, match=r"^rows\.csv:9: The checkpoint's processor cannot write .*too long"):
        encoder.encode([long])


def test_blanks_around_a_text_may_go(with_template) -> None:
    row = Sample(id="7", image=None, text="a red lamp", answer="", label=0)
    assert with_template(OURS.replace(TEXT, "{{ p['text']|trim }}")).encode([row])


@pytest.mark.parametrize(
    "call", ['strftime_now("%d %b %Y")', "strftime_now( '%d %b %Y' )", "strftime_now(format='%d %b %Y')"]
)
def test_a_date_in_a_template_is_the_same_every_day(call, with_template, monkeypatch) -> None:
    opening = "{% if strftime_now is defined %}{% set today = " + call + " %}{% endif %}Today: {{ today }}\n"
    encoder = with_template("{# strftime_now(here) #}" + opening + OURS)
    written = encoder.mllm.family.chat(encoder.mllm.processor, "what is it", False)
    assert written.startswith("Today: 26 Jul 2024\n") and str(datetime.date.today().year) not in written


def test_a_template_that_does_not_end_is_stopped(with_template, monkeypatch) -> None:
    """In any thread, and nothing of it arrives later."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.2)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    said: list[str] = []

    def attempt() -> None:
        try:
            with_template(loop + OURS)
        except ModelError as error:
            said.append(str(error))

    attempt()
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert len(said) == 2 and all("takes more than 0 seconds for a row. Correct its chat_template" in s for s in said)
    assert sum(range(1_000_000)) == 499_999_500_000


def test_a_template_of_several_names_has_its_date_fixed_too(mllm, monkeypatch, tmp_path: Path) -> None:
    named = {"default": "{{ strftime_now('%Y') }}" + OURS, "tool_use": "{{ strftime_now('%H') }}"}
    monkeypatch.setattr(mllm.processor, "chat_template", named)
    assert mllm.family.chat(mllm.processor, "x", False).startswith("2024")
    folder = shutil.copytree(TINY, tmp_path / "base")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}" + OURS)
    own = skeleton(ModelOptions(path=str(folder)))
    assert own.family.chat(own.processor, "x", True).startswith("2024")
