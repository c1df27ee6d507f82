"""What a run does, counted before it does it: clients of every round, their steps, the rows and images they touch.

Draws are functions of the seed, the round and the client, so the count is exact and costs no training. Under
differential privacy clients are drawn in secret, and the count is that of one draw that the run could make.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.rounds.in_flight import planned_rounds
from fs_fedmllm.rounds.modality_draw import Presence
from fs_fedmllm.rounds.replay import recorded_participants
from fs_fedmllm.rounds.schedule import (
    LocalWork,
    evaluation_due,
    guard_asks,
    round_clients,
    slices_due,
    stand_in_kinds,
)
from fs_fedmllm.scenarios.federated_data import FederatedData
from fs_fedmllm.scenarios.fitting import complete_validation_rows
from fs_fedmllm.scenarios.judged import evaluated_rows

#: Turns that a probe may go through.
FIRST_TURNS = 6


@dataclass(frozen=True)
class Work:
    """A run's work.

    Attributes:
        clients_per_round: clients that train in a round.
        turns: client turns of the run.
        steps: optimizer steps of the run.
        rows: rows through the model in training, with repetitions.
        evaluations: evaluations of the run.
        scored: rows through the model in all evaluations, those of further test sets included.
        scored_sets: of them, those of each further test set, by its name.
        used: the distinct rows that are encoded, training and evaluation.
        images: distinct images among them.
        heaviest: the rows of the optimizer step with the longest text beside an image, and of that with the longest
            text alone; which has more tokens only the model's processor can tell.
        longest: likewise the evaluation batches, of the run's own rows.
        longest_sets: likewise those of each further test set, which its own prompts ask.
        first: the rows of each step of the run's first turns, up to :data:`FIRST_TURNS`.
        scored_parts: the evaluation batches that are shortest and middling.
        presence: rows of each client by what they show.
    """

    clients_per_round: int
    turns: int
    steps: int
    rows: int
    evaluations: int
    scored: int
    scored_sets: Mapping[str, int]
    used: Sequence[Sample]
    images: int
    heaviest: Sequence[Sequence[Sample]]
    longest: Sequence[Sequence[Sample]]
    longest_sets: Mapping[str, Sequence[Sequence[Sample]]]
    first: Sequence[Sequence[Sequence[Sample]]]
    scored_parts: Sequence[Sequence[Sample]]
    presence: Presence


def length(row: Sample) -> int:
    """Characters of a row's texts, which stand for its tokens."""
    return len(row.text or "") + len(row.question or "")


def _longest_batches(rows: Sequence[Sample], batch: int) -> list[list[Sample]]:
    """The batch with the longest texts of the rows with an image, and of those without."""
    kinds = ([row for row in rows if row.image is not None], [row for row in rows if row.image is None])
    return [sorted(kind, key=length)[-batch:] for kind in kinds if kind]


def _noise_images(config: Config, kinds: frozenset[str], texts: int) -> int:
    """Images of noise that a run is expected to show: each is a pass of the vision tower, once in a process."""
    from fs_fedmllm.rounds.stand_ins import POOL

    return min(POOL, math.ceil(config.fedmllm.stand_ins.q * texts)) if "image" in kinds else 0


def _completed(
    config: Config, data: FederatedData, kinds: frozenset[str], batches: Sequence[Sequence[Sample]]
) -> list[list[Sample]]:
    """The heaviest steps with stand-ins in every row of one modality: what they need at most."""
    if not kinds:
        return []
    from fs_fedmllm.rounds.stand_ins import neutral_phrases, noise_image

    longest = " ".join(max(part, key=len) for part in neutral_phrases(data.template.options))

    def whole(row: Sample) -> Sample:
        if row.presence == "text" and "image" in kinds:
            return dataclasses.replace(row, image=noise_image(0))
        if row.presence == "image" and "text" in kinds:
            return dataclasses.replace(row, text=longest)
        return row

    return [[whole(row) for row in batch] for batch in batches]


def _slices(rows: Sequence[Sample]) -> list[Sample]:
    """Rows as the slices show them, with one modality each; none where no row has both."""
    if not any(row.presence == "both" for row in rows):
        return []
    shown = [row.showing(image=image, text=not image) for row in rows for image in (True, False)]
    return [row for row in shown if row.presence != "neither"]


def planned_updates(
    config: Config, recorded: Sequence[Sequence[int]], presence: Presence
) -> Iterator[list[tuple[int, int]]]:
    """The updates of each round: client, and the round whose adapter it starts from.

    Args:
        config: the run's configuration.
        recorded: the participants of each round, in a replay.
        presence: what every client's rows show.
    """
    if config.fedmllm.async_.buffer:
        for planned in planned_rounds(config, presence):
            yield [(job.client, job.version) for job in planned.jobs]
        return
    for index in range(config.federate.total_round_num):
        yield [(client, index) for client in round_clients(config, index, recorded, presence)]


def count_work(config: Config, data: FederatedData) -> Work:
    """Count what the run will do.

    Raises:
        ConfigError: ``fedmllm.replay`` names no record of such a run.
    """
    recorded = recorded_participants(config)
    presence = {client: record.presence for client, record in data.manifest.clients.items()}
    rounds = config.federate.total_round_num
    turns = steps = rows = text_rows = 0
    touched: dict[tuple[object, ...], Sample] = {}

    def touch(row: Sample) -> None:
        touched.setdefault((row.image, row.text, row.question, row.answer), row)

    seen: dict[int, set[int]] = {}
    lengths = {client: [length(row) for row in rows] for client, rows in data.clients.items()}
    first: list[list[list[Sample]]] = []
    heaviest: dict[bool, tuple[tuple[int, int], list[Sample]]] = {}
    for updates in planned_updates(config, recorded, presence):
        for client, version in updates:
            batches = LocalWork.of(config, client).batches(client, version, len(data.clients[client]))
            turns += 1
            steps += len(batches)
            rows += sum(len(batch) for batch in batches)
            mine = data.clients[client]
            text_rows += sum(mine[i].presence == "text" for batch in batches for i in batch)
            if len(first) < FIRST_TURNS:
                first.append([[mine[i] for i in batch] for batch in batches])
            for batch in batches:
                for pictured in (True, False):
                    texts = [lengths[client][i] for i in batch if (mine[i].image is not None) == pictured]
                    if texts and (len(batch), max(texts)) > heaviest.get(pictured, ((0, 0),))[0]:
                        heaviest[pictured] = ((len(batch), max(texts)), [mine[i] for i in batch])
            seen.setdefault(client, set()).update(i for batch in batches for i in batch)
    for client, indices in seen.items():
        for i in indices:
            touch(data.clients[client][i])
    val, test = evaluated_rows(config, data.dataset.val), evaluated_rows(config, data.dataset.test)
    due = [done for done in range(1, rounds + 1) if evaluation_due(config, done)]
    if not config.method.has_global:
        due = [rounds] * config.federate.client_num
    if config.fedmllm.eval.zero_shot:
        due = [0, *due]
    sliced = [done for done in due if slices_due(config, done)]
    scored = len(due) * len(val)
    for row in val:
        touch(row)
    further = {name: evaluated_rows(config, test_set.rows) for name, test_set in data.test_sets.items()}
    scored_sets: dict[str, int] = {}
    for name, tested in (("", test), *further.items()):
        shown = _slices(tested) if sliced else []
        scored_sets[name] = len(due) * len(tested) + len(sliced) * len(shown)
        for row in (*tested, *shown):
            touch(row)
    scored += sum(scored_sets.values())
    # The mean of the last rounds' adapters is evaluated once more, on the run's own rows.
    if config.fedmllm.average_last:
        scored += len(val) + len(test) + (len(_slices(test)) if slices_due(config, rounds) else 0)
    kinds = stand_in_kinds(config.fedmllm.stand_ins, presence)
    if kinds:
        asked = len(complete_validation_rows(config, data.dataset))
        scored += 2 * asked * sum(guard_asks(config, index) for index in range(rounds))
    completed = _completed(config, data, kinds, [batch for _, batch in heaviest.values()])
    used = list(touched.values())
    eval_batch = min(config.fedmllm.eval.batch_size, max(len(val), len(test), 1))
    by_length = sorted((*val, *test), key=length)
    middle = max(0, (len(by_length) - eval_batch) // 2)
    return Work(
        clients_per_round=config.fedmllm.async_.buffer or len(round_clients(config, 0, recorded, presence)),
        turns=turns,
        steps=steps,
        rows=rows,
        evaluations=len(due),
        scored=scored,
        scored_sets={name: scored_sets[name] for name in further},
        used=used,
        images=len({row.image for row in used if row.image is not None}) + _noise_images(config, kinds, text_rows),
        heaviest=[*(batch for _, batch in heaviest.values()), *completed],
        longest=_longest_batches(by_length, eval_batch),
        longest_sets={
            name: _longest_batches(rows, min(config.fedmllm.eval.batch_size, len(rows)))
            for name, rows in further.items()
        },
        first=first,
        scored_parts=[by_length[:eval_batch], by_length[middle : middle + eval_batch]],
        presence=presence,
    )
