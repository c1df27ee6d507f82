"""What a run does, counted before it does it: clients of every round, their steps, the rows and images they touch.

Draws are functions of the seed, the round and the client, so the count is exact and costs no training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fs_fedmllm.config import Config
from fs_fedmllm.data.sample import Sample
from fs_fedmllm.federation import FederatedData
from fs_fedmllm.training.plan import STREAM_ORDER, STREAM_SAMPLING, plan_batches, turn_generator


@dataclass(frozen=True)
class Work:
    """A run's work.

    Attributes:
        clients_per_round: clients that train in a round.
        turns: client turns of the run.
        steps: optimizer steps of the run.
        rows: rows through the model in training, with repetitions.
        evaluations: evaluations of the run.
        scored: rows through the model in all evaluations.
        used: the distinct rows that are encoded, training and evaluation.
        images: distinct images among them.
        batch: rows of one forward pass in training, at most.
        eval_batch: rows of one evaluation batch, at most.
        heaviest: the rows of the optimizer step with the longest texts.
        longest: the rows of the evaluation batch with the longest texts.
        first: for up to two clients of the first round, the rows of their first two steps.
        scored_parts: the evaluation batches that are shortest, middling and longest.
    """

    clients_per_round: int
    turns: int
    steps: int
    rows: int
    evaluations: int
    scored: int
    used: Sequence[Sample]
    images: int
    batch: int
    eval_batch: int
    heaviest: Sequence[Sample]
    longest: Sequence[Sample]
    first: Sequence[Sequence[Sequence[Sample]]]
    scored_parts: Sequence[Sequence[Sample]]


def length(row: Sample) -> int:
    """Characters of a row, which stand for its tokens; an image counts more than any text."""
    return (100_000 if row.image is not None else 0) + len(row.text or "") + len(row.question or "")


def _drawn(config: Config, round_index: int) -> list[int]:
    """As :meth:`fs_fedmllm.federation.Federation.sample_clients`, which needs a loaded model."""
    method, total = config.federate.method, config.federate.client_num
    if method == "global":
        return [1]
    if method == "local":
        return list(range(1, total + 1))
    if config.switches["client_sampling"] == "round_seed":
        return sorted(k + 1 for k in random.Random(round_index).sample(range(total), config.sampled_clients))
    rng = turn_generator(config.seed, STREAM_SAMPLING, round_index, 0)
    return sorted(int(k) + 1 for k in rng.choice(total, size=config.sampled_clients, replace=False))


def _evaluated(rows: Sequence[Sample], limit: int) -> Sequence[Sample]:
    return rows if not 0 < limit < len(rows) else [rows[i * len(rows) // limit] for i in range(limit)]


def count_work(config: Config, data: FederatedData) -> Work:
    """Count what the run will do.

    Args:
        config: the run's configuration.
        data: rows of every client.
    """
    local, switches = config.fedmllm.train, config.switches
    rounds = config.federate.total_round_num
    turns = steps = rows = widest = 0
    touched: dict[tuple[object, ...], Sample] = {}

    def touch(row: Sample) -> None:
        touched.setdefault((row.image, row.text, row.question, row.answer), row)

    seen: dict[int, set[int]] = {}
    lengths = {client: [length(row) for row in rows] for client, rows in data.clients.items()}
    first: list[list[list[Sample]]] = []
    heaviest: tuple[tuple[int, int], int, list[int]] = ((0, 0), 0, [])
    for round_index in range(rounds):
        for client in _drawn(config, round_index):
            batches = plan_batches(
                len(data.clients[client]),
                amount=config.train.local_update_steps,
                unit=config.train.batch_or_epoch,
                batch_size=local.batch_size,
                rng=turn_generator(
                    config.seed, STREAM_ORDER, 0 if switches["sample_order"] == "repeated" else round_index, client
                ),
                drop_tail=switches["accumulation_tail"] == "dropped",
            )
            turns += 1
            steps += len(batches)
            rows += sum(len(batch) for batch in batches)
            widest = max([widest, *(len(batch) for batch in batches)])
            if round_index == 0 and len(first) < 2:
                first.append([[data.clients[client][i] for i in batch] for batch in batches[:2]])
            for batch in batches:
                weight = (len(batch), max(lengths[client][i] for i in batch))
                if weight > heaviest[0]:
                    heaviest = (weight, client, batch)
            seen.setdefault(client, set()).update(i for batch in batches for i in batch)
    for client, indices in seen.items():
        for i in indices:
            touch(data.clients[client][i])
    limit = config.fedmllm.eval.limit
    val, test = _evaluated(data.dataset.val, limit), _evaluated(data.dataset.test, limit)
    due = [r for r in range(1, rounds + 1) if r % config.eval.freq == 0 or r == rounds]
    if config.federate.method == "local":
        due = [rounds] * config.federate.client_num
    if config.fedmllm.eval.zero_shot:
        due = [0, *due]
    scored = len(due) * (len(val) + len(test))
    slices = config.fedmllm.eval.slices
    sliced = [r for r in due if slices == "always" or (slices == "ends" and r in (0, rounds))]
    shown = [row.showing(image=image, text=not image) for row in test for image in (True, False)] if sliced else []
    shown = [row for row in shown if row.presence != "neither"] if any(r.presence == "both" for r in test) else []
    scored += len(sliced) * len(shown)
    for row in (*val, *test, *shown):
        touch(row)
    used = list(touched.values())
    eval_batch = min(config.fedmllm.eval.batch_size, max(len(val), len(test), 1))
    by_length = sorted((*val, *test), key=length)
    middle = max(0, (len(by_length) - eval_batch) // 2)
    return Work(
        clients_per_round=len(_drawn(config, 0)),
        turns=turns,
        steps=steps,
        rows=rows,
        evaluations=len(due),
        scored=scored,
        used=used,
        images=len({row.image for row in used if row.image is not None}),
        batch=min(widest, local.micro_batch_size or local.batch_size) if widest else 0,
        eval_batch=eval_batch,
        heaviest=[data.clients[heaviest[1]][i] for i in heaviest[2]],
        longest=by_length[-eval_batch:],
        first=first,
        scored_parts=[by_length[:eval_batch], by_length[middle : middle + eval_batch], by_length[-eval_batch:]],
    )
