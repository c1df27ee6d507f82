"""The manifest: exactly which client got which row showing what, written with every run.

It is a fact, not a recipe: reading it back gives the same clients without drawing anything. Its
sha256 covers everything in it, so an edited file is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fs_fedmllm.data.sample import Sample
from fs_fedmllm.errors import ScenarioError
from fs_fedmllm.files.atomic import write_atomically
from fs_fedmllm.files.untrusted import read_json
from fs_fedmllm.scenarios.rates import measured_rates, nominal_rates
from fs_fedmllm.scenarios.rows import BOTH, IMAGE, NEITHER, TEXT, Assignment, Rows, ShowArray
from fs_fedmllm.scenarios.switches import ScenarioParams
from fs_fedmllm.scenarios.units import codes

#: Raise it when the same parameters and seed would give another split.
ALGORITHM = 1

#: One letter per row in ``ClientRecord.shows``.
LETTERS = {NEITHER: "n", IMAGE: "i", TEXT: "t", BOTH: "b"}
NAMES = {BOTH: "both", IMAGE: "image", TEXT: "text", NEITHER: "neither"}


@dataclass(frozen=True)
class ClientRecord:
    """One client's rows and what was measured on them after the draw.

    Attributes:
        rows: ids in order.
        shows: one letter per row: ``b`` both, ``i`` image, ``t`` text, ``n`` neither.
        dropped: rows it lost because they would have shown nothing.
        labels: rows by label, the key ``none`` for rows without one.
        presence: rows by what they show: both, image, text, neither.
        missing: share of rows that lack each modality.
        beta: beta_k of the adaptive regulariser: the larger of the two shares.
        name: what the data calls the client; empty where it is a number alone.
    """

    rows: tuple[str, ...]
    shows: str
    dropped: int
    labels: dict[str, int]
    presence: dict[str, int]
    missing: dict[str, float]
    beta: float
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What a manifest holds of it; a client without a name has none there either."""
        return {key: value for key, value in vars(self).items() if key != "name" or value}


@dataclass(frozen=True)
class Manifest:
    """A split, with how it came about.

    Attributes:
        algorithm: version of the drawing code.
        scenario: aligned, missing, cross, hybrid, given, or another package's.
        params: the fields of `ScenarioParams`.
        seed: the seed that the split was drawn with.
        dataset: name of the data set, and ``fingerprint`` of its source files; may be empty.
        samples: how many rows there were to distribute.
        clients: by client id, from 1.
    """

    algorithm: int
    scenario: str
    params: dict[str, Any]
    seed: int
    dataset: str
    fingerprint: str
    samples: int
    clients: dict[int, ClientRecord]

    @property
    def betas(self) -> dict[int, float]:
        """beta_k by client id."""
        return {client: record.beta for client, record in self.clients.items()}

    @property
    def names(self) -> dict[int, str]:
        """What the data calls its clients, by id; empty where they are numbers alone."""
        return {client: record.name for client, record in self.clients.items() if record.name}

    @property
    def missing_rates(self) -> dict[str, dict[str, float]]:
        """``nominal``, by the scenario's level, and ``measured``, on all clients' rows; by modality.

        They follow from the rest, so they stand in the file beside what the sha256 covers; empty without clients.
        """
        if not self.clients:
            return {}
        return {
            "nominal": nominal_rates(self.scenario, self.params, len(self.clients)),
            "measured": measured_rates(record.presence for record in self.clients.values()),
        }

    @cached_property
    def sha256(self) -> str:
        """Of the canonical content: sorted keys, no spaces, UTF-8."""
        # not dataclasses.asdict: it would copy every row id
        content = {**self._head(), "clients": {client: record.as_dict() for client, record in self.clients.items()}}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def _head(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "clients"}


@dataclass(frozen=True)
class Split:
    """The clients' training rows by client id (from 1), and the manifest that says how they came about."""

    clients: dict[int, tuple[Sample, ...]]
    manifest: Manifest


def describe(
    rows: Rows, assignment: Assignment, scenario: str, params: ScenarioParams, *, dataset: str, fingerprint: str
) -> Manifest:
    """The manifest of an assignment."""
    labels = [s.label for s in rows.samples]
    code, names = codes(labels), [_label_name(label) for label in dict.fromkeys(labels)]
    ids = [s.id for s in rows.samples]
    clients = {}
    triples = zip(assignment.rows, assignment.shows, assignment.dropped, strict=True)
    for client, (part, shows, dropped) in enumerate(triples, start=1):
        counts = np.bincount(code[part], minlength=len(names)).tolist()
        by_label = {name: count for name, count in sorted(zip(names, counts, strict=True)) if count}
        clients[client] = ClientRecord(
            tuple(ids[row] for row in part.tolist()),
            _letters(shows),
            dropped,
            by_label,
            *_measured(shows),
            name=assignment.names[client - 1] if assignment.names else "",
        )
    return Manifest(
        ALGORITHM, scenario, params.as_dict(), assignment.seed, dataset, fingerprint, len(rows.samples), clients
    )


def materialise(rows: Rows, assignment: Assignment) -> dict[int, tuple[Sample, ...]]:
    """The samples of each client; rows that lose nothing are the very objects that came in."""
    samples, clients = rows.samples, {}
    for client, (part, shows) in enumerate(zip(assignment.rows, assignment.shows, strict=True), start=1):
        chosen = [samples[row] for row in part.tolist()]
        for place in np.flatnonzero(shows != rows.native[part]).tolist():
            show = int(shows[place])
            chosen[place] = chosen[place].showing(image=bool(show & IMAGE), text=bool(show & TEXT))
        clients[client] = tuple(chosen)
    return clients


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """JSON with a line per field and per client; the file appears whole or not at all."""

    def line(value: object) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)

    clients = ",\n".join(f"  {line(str(c))}: {line(record.as_dict())}" for c, record in manifest.clients.items())
    head = [f" {line(name)}: {line(value)}" for name, value in manifest._head().items()]
    if manifest.missing_rates:
        head.insert(0, f' "missing_rates": {line(manifest.missing_rates)}')
    body = ",\n".join([f' "sha256": {line(manifest.sha256)}', *head, ' "clients": {\n' + clients + "\n }"])
    write_atomically(Path(path), ("{\n" + body + "\n}\n").encode())


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read and check a manifest.

    Raises:
        ScenarioError: it cannot be read, was edited, or comes from another algorithm version.
    """
    try:
        content = read_json(Path(path))
        recorded = content.pop("sha256")
        rates = content.pop("missing_rates", None)
        clients = {
            int(client): ClientRecord(**{**record, "rows": tuple(record["rows"])})
            for client, record in content.pop("clients").items()
        }
        manifest = Manifest(**content, clients=clients)
        if not all(isinstance(record.name, str) for record in clients.values()):
            raise TypeError("a client's name is no text")
        actual, follow = manifest.sha256, manifest.missing_rates
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ScenarioError(
            f"{path} cannot be read as a manifest ({type(error).__name__}: {error}); draw the split again"
        ) from error
    if manifest.algorithm != ALGORITHM:
        raise ScenarioError(
            f"{path} has algorithm version {manifest.algorithm}, this version knows {ALGORITHM}; draw the split again"
        )
    if actual != recorded:
        raise ScenarioError(
            f"{path} was changed after it was written: its content has sha256 {actual[:12]}..., the file says "
            f"{str(recorded)[:12]}...; restore the file, or draw the split again"
        )
    if rates is not None and rates != follow:
        raise ScenarioError(
            f"{path} was changed after it was written: its missing_rates are not those of its rows; restore the file, "
            "or draw the split again"
        )
    return manifest


def apply_manifest(manifest: Manifest, samples: Sequence[Sample], *, fingerprint: str = "") -> Split:
    """The clients that the manifest records, without drawing; the order of ``samples`` does not matter.

    Args:
        manifest: as read or drawn.
        samples: the training rows, before any scenario.
        fingerprint: of the data set's source files; compared where both it and the manifest's are given.

    Raises:
        ScenarioError: these are not the rows that the manifest was made from.
    """
    if fingerprint and manifest.fingerprint and fingerprint != manifest.fingerprint:
        raise _mismatch(manifest, f"fingerprint {fingerprint[:12]}... is not its {manifest.fingerprint[:12]}...")
    place = {s.id: index for index, s in enumerate(samples)}
    gone = [row for record in manifest.clients.values() for row in record.rows if row not in place]
    if gone:
        raise _mismatch(manifest, f"{len(gone)} of its rows are absent, such as {', '.join(gone[:3])}")
    if len(samples) != manifest.samples:
        raise _mismatch(manifest, f"there are {len(samples)} rows, it was made from {manifest.samples}")
    rows = Rows(samples)
    letter = {text: show for show, text in LETTERS.items()}
    parts, masks = [], []
    for client, record in manifest.clients.items():
        part = np.array([place[row] for row in record.rows], dtype=np.int64)
        shows = np.array([letter[text] for text in record.shows], dtype=np.uint8)
        lacking = np.flatnonzero(shows & ~rows.native[part])
        if len(lacking):
            row = record.rows[int(lacking[0])]
            raise _mismatch(
                manifest,
                f"row {row} of client {client} should show {NAMES[int(shows[lacking[0]])]}, and has only "
                f"{samples[place[row]].presence}",
            )
        parts.append(part)
        masks.append(shows)
    dropped = tuple(record.dropped for record in manifest.clients.values())
    assignment = Assignment(tuple(parts), tuple(masks), dropped, manifest.seed)
    _same_labels(manifest, samples, place)
    return Split(materialise(rows, assignment), manifest)


def _same_labels(manifest: Manifest, samples: Sequence[Sample], place: dict[str, int]) -> None:
    for client, record in manifest.clients.items():
        labels = Counter(samples[place[row]].label for row in record.rows)
        found = {_label_name(label): count for label, count in labels.items()}
        if found != record.labels:
            raise _mismatch(manifest, f"client {client} has rows by label {found}, it records {record.labels}")


def _label_name(label: int | None) -> str:
    return "none" if label is None else str(label)


def _mismatch(manifest: Manifest, what: str) -> ScenarioError:
    return ScenarioError(
        f"the data is not what the manifest was made from (data set {manifest.dataset or 'unnamed'}, scenario "
        f"{manifest.scenario}): {what}; use the original data, or draw the split again"
    )


def _letters(shows: ShowArray) -> str:
    table = np.frombuffer("".join(LETTERS[show] for show in sorted(LETTERS)).encode("ascii"), dtype=np.uint8)
    return bytes(table[shows]).decode("ascii")


def _measured(shows: ShowArray) -> tuple[dict[str, int], dict[str, float], float]:
    """Counts by presence, missing rates, beta_k."""
    counts = np.bincount(shows, minlength=4).tolist()
    total = len(shows)
    missing = {
        name: sum(count for show, count in enumerate(counts) if not show & bit) / total
        for name, bit in (("image", IMAGE), ("text", TEXT))
    }
    return {name: counts[show] for show, name in NAMES.items()}, missing, max(missing.values())
