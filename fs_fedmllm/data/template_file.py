"""Template files: YAML read into a :class:`~fs_fedmllm.data.template.Template`, or refused with the key that is wrong.

What a file leaves out of the grammar is derived (:mod:`fs_fedmllm.data.short_templates`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.data.short_templates import (
    CASES,
    CLOSING,
    CLOSING_IN_WORDS,
    INSTRUCTION,
    VARIANTS,
    bare_question,
    choice_case,
    is_short,
    open_case,
)
from fs_fedmllm.data.template import LETTERS, Case, Template
from fs_fedmllm.errors import ConfigError, TemplateError
from fs_fedmllm.files.safe_yaml import parse_yaml, yaml_fault
from fs_fedmllm.files.untrusted import WRITTEN, read_regular
from fs_fedmllm.text_columns import lone_surrogate

TASKS = ("choice", "vqa")
METRICS = ("auc", "macro_f1", "accuracy")
#: A field's name in braces; not what LaTeX puts behind a command, nor doubled braces.
_FIELD = re.compile(r"(?<![\w{}\\])\{([A-Za-z_]\w*)\}(?!\})")
_KEYS = {"name", "task", "metric", "question", "options", "positive", "instruction", "closing", "listed", "lettered",
         *VARIANTS}  # fmt: skip

#: What the templates that ship ask for.
_LETTER = "the option's letter"


def template_dir() -> Path:
    """The folder of the templates that ship with the package."""
    packaged = Path(__file__).resolve().parent.parent / "data_templates"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "data_templates"


def _cases(raw: Mapping[str, Any], task: str, question: str, path: str) -> dict[str, dict[str, Case]]:
    """The eight prompts: those that are written down, and the derived ones in the place of the others."""
    if task == "choice" and not question and is_short(raw):
        raise TemplateError(
            f"{path}: the key 'question' is missing. Write what every row is asked, or each of the eight prompts "
            f"under {' and '.join(VARIANTS)}."
        )
    cases: dict[str, dict[str, Case]] = {}
    own = 0
    for variant in VARIANTS:
        given = raw.get(variant) or {}
        if not isinstance(given, Mapping) or not set(given) <= set(CASES):
            raise TemplateError(f"{path}: {variant} may have the keys {', '.join(CASES)}, got {given!r}.")
        made: dict[str, Case] = {}
        for case in CASES:
            value, where = given.get(case), f"{path}: {variant}.{case}"
            if task == "choice" and question:
                derived = choice_case(question, variant, case)
                own += isinstance(value, Mapping) and "question" in value
                value = {**derived, **value} if isinstance(value, Mapping) else derived if value is None else value
            elif task == "vqa" and value is None and case not in given:
                value = open_case(variant)
            made[case] = _case(value, task, where)
        cases[variant] = made
    if own == len(VARIANTS) * len(CASES):
        raise TemplateError(f"{path}: question is shown nowhere: all eight prompts have their own. Take it out.")
    return cases


def _case(value: Any, task: str, where: str) -> Case:
    if task == "vqa":
        if not isinstance(value, str) or "{question}" not in value:
            raise TemplateError(f"{where} must be a text that contains {{question}}.")
        return Case("", _shown(value, where, "question"))
    if not isinstance(value, Mapping) or set(value) != {"basis", "question"}:
        raise TemplateError(f"{where} must be a mapping of basis and question.")
    if isinstance(value["question"], str) and not value["question"].strip():
        raise TemplateError(f"{where}.question is blank. Write what is asked, without the question mark.")
    return Case(_shown(value["basis"], f"{where}.basis"), _shown(value["question"], f"{where}.question"))


def _text(value: Any, where: str) -> str:
    """A text as it was written. YAML reads much that is not in quotes as something else: ``no`` is False.

    Raises:
        TemplateError: it is no text, or holds what no file can.
    """
    if not isinstance(value, str):
        read = "nothing (null)" if value is None else f"{value!r}, which is not text"
        raise TemplateError(
            f"{where}: YAML reads this as {read}. Put it in quotes, as yes, no, on, off, true, false, null, ~, "
            "numbers and dates must be."
        )
    if half := lone_surrogate(value):
        raise TemplateError(f"{where} holds half a character ({half}, a lone surrogate). Write the whole character.")
    return value


def _shown(value: Any, where: str, filled: str = "") -> str:
    """As :func:`_text`, for a text that is shown as it stands, but for the one field that is filled in.

    Raises:
        TemplateError: it names another field in braces, which would be shown with its braces.
    """
    text = _text(value, where)
    odd = next((name for name in _FIELD.findall(text) if name != filled), None)
    if odd is not None:
        fields = f"only {{{filled}}} is filled in here" if filled else "nothing is filled in here"
        by_itself = " The row's text is put before the question by itself." if odd == "text" else ""
        raise TemplateError(
            f"{where} has {{{odd}}}, and {fields}.{by_itself} Take it out, or write it without the braces."
        )
    return text


def _options(value: Any, task: str, where: str) -> tuple[str, ...]:
    if value is None and task != "choice":
        return ()
    if not isinstance(value, list | tuple):
        raise TemplateError(f"{where}: options must be a list of texts, got {value!r}.")
    options = tuple(_text(option, f"{where}: option {i} of options") for i, option in enumerate(value, 1))
    if task == "choice" and not 2 <= len(options) <= len(LETTERS):
        raise TemplateError(f"{where}: a choice needs 2 to {len(LETTERS)} options, got {len(options)}.")
    if task != "choice" and options:
        raise TemplateError(f"{where}: options have no meaning with task {task}; remove them, or set task: choice.")
    blank = next((i for i, option in enumerate(options, 1) if not option.strip()), None)
    if blank is not None:
        raise TemplateError(f"{where}: option {blank} of options is blank.")
    if len({option.strip() for option in options}) != len(options):
        raise TemplateError(f"{where}: two options are the same.")
    return options


def load_template(name_or_path: str | Path) -> Template:
    """Read a template by name (one that ships) or by path (the user's own).

    Raises:
        ConfigError: no such template.
        TemplateError: a key is missing, unknown or of the wrong type.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = template_dir() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in template_dir().glob("*.yaml")))
        raise ConfigError(f"No prompt template {name_or_path!r}: give the path of a .yaml file, or one of {known}.")
    try:
        return _parsed(read_regular(path, WRITTEN), path)
    except OSError as error:
        raise TemplateError(f"The template {path} cannot be read: {error.strerror}.") from error


@lru_cache(maxsize=16)
def _parsed(content: bytes, path: Path) -> Template:
    """A file's template; a run asks for the same one several times."""
    try:
        raw = parse_yaml(content.decode("utf-8-sig"))
    except yaml.YAMLError as error:
        raise TemplateError(f"{path} is not valid YAML{yaml_fault(error)}.") from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if not isinstance(raw, dict):
        raise TemplateError(f"{path} must be a mapping of keys to values.")
    return build_template(raw, str(path), path.stem)


def build_template(raw: Mapping[str, Any], path: str, name: str) -> Template:
    """A template from its mapping.

    Args:
        raw: as its YAML file gives it.
        path: where it comes from, for messages.
        name: what it is called.

    Raises:
        TemplateError: a key is missing, unknown or of the wrong type.
    """
    unknown = sorted(map(str, set(raw) - _KEYS))
    if unknown:
        known = sorted(_KEYS)
        meant = f"{nearest(unknown[0], known)} Known: {', '.join(known)}."
        raise TemplateError(f"{path}: unknown key {unknown[0]!r}{meant}")
    task = raw.get("task", "choice" if raw.get("options") is not None else "vqa" if "question" in raw else None)
    if task is None:
        raise TemplateError(
            f"{path}: say what rows are asked: question and options (a choice), question alone (an open answer), or "
            "task: vqa (every row brings its own question)."
        )
    metric = raw.get("metric", "macro_f1" if task == "choice" else "accuracy")
    if task not in TASKS:
        raise TemplateError(f"{path}: task must be one of {', '.join(TASKS)}, not {task!r}.")
    if metric not in METRICS:
        raise TemplateError(f"{path}: metric must be one of {', '.join(METRICS)}, not {metric!r}.")
    if task == "vqa" and metric != "accuracy":
        raise TemplateError(f"{path}: metric {metric} needs options; with task vqa it must be accuracy.")
    options = _options(raw.get("options"), task, path)
    positive = raw.get("positive", 1)
    if type(positive) is not int or (metric == "auc" and (len(options) != 2 or positive not in (0, 1))):
        raise TemplateError(f"{path}: metric auc needs exactly two options and positive: 0 or 1.")
    question = _shown(raw["question"], f"{path}: question").strip() if "question" in raw else ""
    if "question" in raw and not bare_question(question):
        raise TemplateError(f"{path}: question is blank. Write what is asked, or take it out.")
    short = task == "choice" and bool(question)
    idle = next((key for key in ("instruction", "closing") if raw.get(key) and task == "vqa"), None)
    if idle is not None:
        raise TemplateError(f"{path}: {idle} is of a choice's prompt, and answers are open here. Take it out.")
    listed = raw.get("listed", True)
    if type(listed) is not bool or (task == "vqa" and not listed):
        raise TemplateError(f"{path}: listed must be True or False: whether a choice's prompt lists its options.")
    lettered = raw.get("lettered", True)
    if type(lettered) is not bool or (task == "vqa" and not lettered):
        raise TemplateError(
            f"{path}: lettered must be True or False: whether a choice's options have letters, and an answer begins "
            "with its option's."
        )
    asking = next((key for key in ("instruction", "closing") if _LETTER in str(raw.get(key, ""))), None)
    if not lettered and asking is not None:
        raise TemplateError(
            f"{path}: {asking} asks for {_LETTER}, and with lettered: false options have none. Ask for its own "
            "words there, or take lettered: false out."
        )
    closing = CLOSING if lettered else CLOSING_IN_WORDS
    return Template(
        name=name,
        task=task,
        metric=metric,
        options=options,
        positive=int(positive),
        instruction=_shown(raw.get("instruction", INSTRUCTION if short else ""), f"{path}: instruction"),
        closing=_shown(raw.get("closing", closing if short else ""), f"{path}: closing"),
        cases=_cases(raw, task, bare_question(question) if short else "", path),
        question=question if task == "vqa" else "",
        listed=listed,
        lettered=lettered,
    )
