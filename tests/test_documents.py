"""What documents say of commands, keys and files is what the code says; nothing here takes a model."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
from short_runs import REPOSITORY

from fs_fedmllm import aggregators, algorithms, cli
from fs_fedmllm import config as schema
from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.host_keys import TABLE
from fs_fedmllm.config.host_reading import leaves, put
from fs_fedmllm.config.known_keys import known_keys
from fs_fedmllm.files.safe_yaml import parse_yaml

DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "benchmarks").glob("*.md")),
    *sorted((REPOSITORY / "examples").glob("*/README.md")),
]


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def commands(document: Path) -> list[tuple[str, bool]]:
    """Command lines of ``fs-fedmllm``, lines continued by a backslash joined; and whether one is typed as it stands.

    What stands in a block is; what stands between back-ticks in a sentence may name a command alone.
    """
    text = re.sub(r"\\\n\s+", "", text_of(document))
    fenced = "\n".join(re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL))
    blocks = re.findall(r"^(?:\$ )?(?:.*&& )?(fs-fedmllm .*)$", fenced, re.MULTILINE)
    blocks += re.findall(r"^ {4,}(?:\$ )?(fs-fedmllm .*)$", text, re.MULTILINE)
    inline = re.findall(r"`(fs-fedmllm [^`]*)`", text.replace("\n", " "))
    lines = [(line.split(" #")[0].strip(), line in blocks) for line in [*blocks, *inline]]
    return list(dict.fromkeys(lines))


def words(line: str) -> list[str]:
    """A command line as typed: optional parts present, alternatives by their first, placeholders as words."""
    line = re.sub(r"\[key value \.\.\.\]", "seed 7", line)
    line = re.sub(r"[\[\]]", "", line) if "[{" not in line and '"[' not in line else line
    line = re.sub(r"(?<=\w)\|[\w|]+", "", line).replace("...", "x")
    return shlex.split(re.sub(r"<(\w+)>", r"\1", line))[1:]


CASES = [(document, line, typed) for document in DOCUMENTS for line, typed in commands(document)]


def test_command_lines_are_found() -> None:
    lines = {line for _, line, typed in CASES if typed}
    assert len(lines) > 40 and "fs-fedmllm run configs/cross_i3t7.yaml" in lines
    assert any("lr_inner cosine" in line and "yoco" in line for line in lines)  # a continued line is whole


@pytest.mark.parametrize(
    ("document", "line", "typed"), CASES, ids=[f"{document.stem}-{line[11:60]}" for document, line, _ in CASES]
)
def test_a_command_line_of_the_documents_is_one(document: Path, line: str, typed: bool) -> None:
    """It parses, its configuration is there, and its overrides are keys with values that they may have."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            args, more = cli.build_parser().parse_known_args(words(line))
    except SystemExit as stop:
        # A sentence may leave arguments out; it may not name what does not exist.
        lacks = not typed and re.search(r"arguments are required|expected one argument", told.getvalue())
        assert stop.code == 0 or lacks, f"{line}: {told.getvalue()}"
        return
    assert not [word for word in more if word.startswith("--")], line
    place = getattr(args, "config", None) or getattr(args, "table", None)
    if not str(place).endswith(".yaml") or "fedadagard" in line:  # that one is a refusal: see below
        return
    found = [path for path in (REPOSITORY / str(place), document.parent / str(place)) if path.is_file()]
    assert found or "/" not in str(place), f"{line}: there is no {place}"
    overrides = [*getattr(args, "overrides", []), *more]
    if overrides and found and args.command != "sweep":
        schema.load(found[0], [str(word) for word in overrides])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_keys_that_documents_name_are_keys(document: Path) -> None:
    leaves = known_keys()
    sections = {".".join(key.split(".")[:n]) for key in leaves for n in range(1, key.count(".") + 1)}
    # FederatedScope's keys, as far as its defaults and our table of them know them.
    hosts = {".".join(key.split(".")[:n]) for key in (*DEFAULTS, *TABLE) for n in range(1, key.count(".") + 2)}
    free = ("fedmllm.data.", "fedmllm.switches.", "model.fedmllm.image.")
    heads = r"(?:fedmllm|model|federate|data|train|trainer|eval|early_stop)"
    found = set(re.findall(rf"`({heads}(?:\.[a-z_]\w*)+)", text_of(document)))
    wrong = [
        key
        for key in found
        if key not in {*leaves, *sections}
        and not key.startswith(free)
        and not key.endswith((".json", ".md", ".yaml", ".py", ".jsonl", ".csv", ".txt"))
        and key not in hosts
    ]
    assert not wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_files_that_documents_name_exist(document: Path) -> None:
    text = text_of(document)
    folders = "fs_fedmllm|docs|tests|configs|scripts|examples|data_templates|tables|benchmarks"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./*-]+)", text)
    missing = [
        name
        for name in (name.rstrip(".") for name in named)
        if not list(REPOSITORY.glob(name)) and not (document.parent / name).exists() and "sky" not in name
    ]
    assert not missing


def anchors(document: Path) -> set[str]:
    """What a link into a document may end with: its headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    plain = [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    ]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_to_headings_lead_to_one(document: Path) -> None:
    found = re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", text_of(document))
    assert not [
        (place, anchor)
        for place, anchor in found
        if anchor not in anchors(document.parent / place if place else document)
    ]


def snippets(document: Path) -> list[dict[str, object]]:
    """Parts of configurations that a document shows; templates and tables have other keys."""
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```$", text_of(document), re.MULTILINE | re.DOTALL)
    read = [parse_yaml(block) for block in blocks]
    return [
        block for block in read if set(block) <= {"data", "eval", "expname", "federate", "fedmllm", "model", "train"}
    ]


SNIPPETS = [(document, block) for document in DOCUMENTS for block in snippets(document)]


@pytest.mark.parametrize(("document", "block"), SNIPPETS, ids=lambda value: getattr(value, "stem", ""))
def test_a_configuration_of_the_documents_is_one(document: Path, block: dict[str, object]) -> None:
    """On its own, or as a part of one that ships."""
    raw = schema.given_mapping(REPOSITORY / "configs" / "cross_i3t7.yaml", ["federate.sample_client_num", "5"])
    for name, value in leaves(block):
        put(raw, name, value)
    schema.from_mapping(raw, str(document))


def test_snippets_are_found() -> None:
    assert len(SNIPPETS) >= 8


def test_keys_that_messages_name_are_keys() -> None:
    """In every text of the package: a remedy must not send anybody to a key that is none."""
    hosts = {key for table in (DEFAULTS, TABLE) for key in table}
    keys = {*known_keys(), *hosts}
    known = {".".join(key.split(".")[:n]) for key in keys for n in range(1, key.count(".") + 2)}
    free = ("fedmllm.data.", "fedmllm.switches.", "model.fedmllm.image.", "fedmllm.test_sets.", "fedmllm.parameters.")
    named = re.compile(r"(?<![\w./])(fedmllm(?:\.[a-z_]\w*)+)")
    assert not [
        (path.name, name)
        for path in sorted((REPOSITORY / "fs_fedmllm").rglob("*.py"))
        for name in named.findall(text_of(path))
        if name not in known and not name.startswith(free) and not name.endswith((".yaml", ".json"))
    ]


REFUSALS = re.compile(r"^    \$ (fs-fedmllm .+)\n((?:    (?!\$).+\n)+)", re.MULTILINE)


def test_refusals_are_printed_as_they_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    shown = [found for document in DOCUMENTS for found in REFUSALS.findall(text_of(document))]
    assert shown
    for line, said in shown:
        assert cli.main(words(line)) == 2
        assert capsys.readouterr().err.split() == said.split()


def test_every_option_of_own_data_is_on_its_page() -> None:
    from fs_fedmllm.data.registry import known_options

    text = text_of(REPOSITORY / "docs" / "own_data.md").split("## Options")[1].split("## Template")[0]
    first = "".join(re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE))
    named = re.findall(r"`(\w+)`", first)
    assert sorted(named) == sorted(known_options("own"))


def test_the_page_of_the_paper_names_what_exists_and_leaves_nothing_out() -> None:
    """Its presets, table files, modules and links are there, and so is every table and figure of the paper."""
    page = text_of(REPOSITORY / "docs" / "paper.md")
    named = set(re.findall(r"`((?:fs_fedmllm|configs|tables|data_templates)/[^`]*?)`", page))
    assert len(named) > 50 and not [name for name in named if not list(REPOSITORY.glob(name))]
    assert not [link for link in re.findall(r"\]\(([^)#]+)", page) if not (REPOSITORY / "docs" / link).exists()]
    # Everything of the paper that ships is on it ...
    tables = {path.relative_to(REPOSITORY) for path in REPOSITORY.glob("tables/*.yaml")}
    presets = {path.relative_to(REPOSITORY) for path in REPOSITORY.glob("configs/*/*.yaml")}
    covered = {path.relative_to(REPOSITORY) for name in named for path in REPOSITORY.glob(name)}
    assert not (tables | presets) - covered
    # ... and every element has a row, which says where.
    for heading, last in (("## Tables", 14), ("## Figures", 14)):
        rows = re.findall(r"^\| ([\d, ]+) \|", page.split(heading)[1].split("\n## ")[0], re.MULTILINE)
        assert sorted(int(number) for row in rows for number in row.split(",")) == list(range(1, last + 1))
    for place in ("README.md", "docs/index.md"):
        assert "paper.md)" in text_of(REPOSITORY / place)


def test_what_was_never_run_is_said() -> None:
    page = " ".join(text_of(REPOSITORY / "docs" / "paper.md").split())
    assert "None of its tables was reproduced here." in page
    assert all("never run" in line for line in re.findall(r"^\| \d+ .*`tables/.*$", text_of(
        REPOSITORY / "docs" / "paper.md"), re.MULTILINE))  # fmt: skip


def test_the_functions_of_the_page_on_conformance_exist_and_take_what_it_says() -> None:
    page = text_of(REPOSITORY / "docs" / "conformance.md")
    named = re.findall(r"`([a-z_]+)\.([a-z_]+)\(([^`]*)\)`", page)
    assert len(named) > 8
    for module, function, arguments in named:
        rooms = (aggregators, algorithms)
        homes = [home for home in rooms if importlib.util.find_spec(f"{home.__name__}.{module}")]
        assert homes, module
        found = getattr(importlib.import_module(f"{homes[0].__name__}.{module}"), function)
        stated = [re.split(r"=", word)[0] for word in re.split(r",\s*", arguments)]
        assert set(stated) <= set(inspect.signature(found).parameters), (module, function)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_documents_speak_plainly(document: Path) -> None:
    """Turns of phrase that only those know who were there; the field says client update and resume."""
    ours = ("the same command goes on", "federatedly", "the more the more", "tells the hours", "to the same bytes")
    if document.name != "CHANGELOG.md" and document.parent.name != "benchmarks":
        text = " ".join(text_of(document).split())
        assert not [phrase for phrase in ours if phrase in text]


def test_pictures_of_the_documents_are_shown_and_small() -> None:
    """And described, for those who do not see them; a wheel has none of them (tests/test_packaging.py)."""
    shown = {
        (document.parent / path).resolve(): said
        for document in DOCUMENTS
        for said, path in re.findall(r"!\[(.*?)\]\(([^)]+)\)", text_of(document))
    }
    pictures = set((REPOSITORY / "docs" / "pictures").iterdir())
    assert {path.resolve() for path in pictures} == set(shown) and all(len(said) > 40 for said in shown.values())
    assert all(path.stat().st_size <= 150 << 10 for path in pictures)
