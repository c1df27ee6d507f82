"""docs/json.md is read by the tests of each command; here, that a document which is not as it says is found."""

from __future__ import annotations

from typing import Any

import pytest
from json_page import documented, wrong

CHECKED: dict[str, Any] = {"passed": True, "checked": [{"what": "a", "found": "b", "passed": True}], "not_checked": []}


def test_a_document_as_the_page_has_it() -> None:
    assert wrong(CHECKED, "run --dry-run") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passed": "yes"}, "passed is str"),
        ({"passed": 1}, "passed is int"),
        ({"more": 1}, "more is not on the page"),
        ({"checked": [{"what": "a", "found": None, "passed": True}]}, "checked[].found is NoneType"),
        ({"checked": [{"what": "a", "passed": True, "by": 3}]}, "checked[].by is not on the page"),
    ],
)
def test_a_document_that_is_not_so_is_found(change: dict[str, Any], said: str) -> None:
    assert said in wrong(CHECKED | change, "run --dry-run")


def test_what_is_missing_is_found_unless_it_may_be() -> None:
    assert wrong({"passed": True, "not_checked": []}, "run --dry-run") == ["checked is missing"]
    assert documented("run")["test_sets"][1] and not documented("run")["seed"][1]
    assert wrong({"of": 3}, "evaluate") and documented("evaluate")["calibration"][0] == (dict, type(None))
