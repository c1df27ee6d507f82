"""Columns of text, as the commands print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from fs_fedmllm.data.client_names import called, shown_name
from fs_fedmllm.data.sample import CASES, Sample
from fs_fedmllm.text_columns import aligned


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[int] = (0,)) -> str:
    """Text columns; those of ``left`` to the left, the others, numbers mostly, to the right."""
    cells = [[shown_name(str(cell), 200) for cell in row] for row in (header, *rows)]
    return "\n".join(aligned(cells, left))


def client_table(clients: Mapping[int, Sequence[Sample]], names: Mapping[int, str] = MappingProxyType({})) -> str:
    """Rows of each client by what they show."""
    rows = []
    for client, samples in sorted(clients.items()):
        shown = Counter(sample.presence for sample in samples)
        rows.append([called(client, names), f"{len(samples):,}", *(f"{shown[case]:,}" for case in CASES)])
    return table(["client", "rows", *CASES], rows)
