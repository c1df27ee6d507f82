"""What docs/json.md says of the documents that ``--json`` prints, and whether one is so."""

from __future__ import annotations

import re
from typing import Any

from short_runs import REPOSITORY

KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,), "number": (int, float), "true or false": (bool,), "list": (list,), "mapping": (dict,),
    "null": (type(None),),
}  # fmt: skip
_ROW = re.compile(r"^\| `([^`]+)`( \*)? \| ([a-z ]+) \|", re.MULTILINE)


def documented(section: str) -> dict[str, tuple[tuple[type, ...], bool]]:
    """Of each key of a section: the kinds that its value may have, and whether it may be absent."""
    page = (REPOSITORY / "docs" / "json.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    found = {}
    for path, star, said in _ROW.findall(text):
        names = [said] if said in KINDS else said.split(" or ")
        found[path.replace("/", ".")] = (tuple(kind for name in names for kind in KINDS[name]), bool(star))
    assert found, f"docs/json.md has no keys below {section}"
    return found


def wrong(document: Any, section: str) -> list[str]:
    """In what a document is not as the page says: keys that are missing or unknown, values of another kind."""
    known = documented(section)
    return _wrong(document, "", known)


def _wrong(value: Any, place: str, known: dict[str, tuple[tuple[type, ...], bool]]) -> list[str]:
    below = {path.removeprefix(place) for path in known if path.startswith(place) and path != place}
    names = {re.split(r"[.\[]", path)[0] for path in below}
    found = [f"{place}{name} is not on the page" for name in value if name not in names and not _open(place)]
    for name in sorted(names):
        path = place + name
        kinds, may_lack = known.get(path, ((dict,), all(known[p][1] for p in known if p.startswith(f"{path}."))))
        if name not in value:
            found += [] if may_lack else [f"{path} is missing"]
        elif not isinstance(value[name], kinds) or (isinstance(value[name], bool) and bool not in kinds):
            found.append(f"{path} is {type(value[name]).__name__}")
        elif isinstance(value[name], dict) and any(p.startswith(f"{path}.") for p in known):
            found += _wrong(value[name], f"{path}.", known)
        elif isinstance(value[name], list) and any(p.startswith(f"{path}[].") for p in known):
            found += [fault for item in value[name] for fault in _wrong(item, f"{path}[].", known)]
    return found


def _open(place: str) -> bool:
    """Evaluations have every metric by its name, beside what is on the page."""
    return place == "evaluations[]."
