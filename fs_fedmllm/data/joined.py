"""Rows that belong together by any of several keys: a patient, or a study, or a picture.

Two rows are joined if they share one key, and so are all that a chain of such rows joins: with patients and scanners
as keys, two patients of one scanner are one group.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence


def joined(keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """For each row the number of the first row that it is joined with; its own where there is none before it.

    Args:
        keys: of each row; a row without any is joined with nothing.
    """
    first: dict[Hashable, int] = {}
    above: list[int] = []

    def top(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for row, own in enumerate(keys):
        above.append(row)
        for key in own:
            one, other = top(row), top(first.setdefault(key, row))
            above[max(one, other)] = min(one, other)
    return [top(row) for row in range(len(above))]


def group_names(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> list[str]:
    """What each row's group is called: alike where rows belong together, empty where a row stands alone.

    Args:
        rows: the keys of each, the columns among them where the row has them.
        columns: whose values hold rows together; of one column the value itself is the name.
    """
    if len(columns) <= 1:
        return [row.get(column, "") for row in rows for column in columns] or [""] * len(rows)
    own = [[(column, row[column]) for column in columns if row.get(column)] for row in rows]
    names = []
    for keys, top in zip(own, joined(own), strict=True):
        column, value = own[top][0] if keys else ("", "")
        names.append(f"{column} {value}" if keys else "")
    return names
