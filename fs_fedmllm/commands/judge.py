"""``fs-fedmllm judge``."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.errors import ConfigError

if TYPE_CHECKING:
    from fs_fedmllm.config import JudgeSection
    from fs_fedmllm.tools.judge import JudgeConfig, JudgeRow

EXIT_INCOMPLETE = 1


def add(commands: Any) -> None:
    """Add ``judge`` to the command line's grammar."""
    judge = commands.add_parser("judge", help="let a language model grade the open answers of finished runs")
    judge.add_argument("folders", nargs="+", metavar="FOLDER", help="run folders, or the folder of a sweep")
    judge.add_argument("--model", help="dated name of the judge's model (default: the run's fedmllm.judge.model)")
    judge.add_argument("--base-url", help="any OpenAI-compatible endpoint (default: fedmllm.judge.base_url)")
    judge.add_argument("--api-key-env", help="environment variable that holds the key")
    judge.add_argument("--prompt", choices=("structured", "upstream"), help="ours, or the authors' wording")
    judge.add_argument("--price-in", type=float, help="price of a million prompt tokens")
    judge.add_argument("--price-out", type=float, help="price of a million reply tokens")
    judge.add_argument("--max-cost", type=float, help="most that the verdicts of a run may cost")
    judge.add_argument("--max-total-tokens", type=int, help="the same in tokens")
    judge.add_argument("--concurrency", type=int, help="requests in flight at once")
    judge.add_argument("--cache", help="file of verdicts (default FOLDER/judge_cache.jsonl); share one between runs")
    judge.add_argument("--zero-shot", action="store_true", help="grade the answers before round 0 too, as far as kept")
    judge.add_argument("--allow-undated-model", action="store_true", help="accept a name without a date or revision")
    judge.set_defaults(function=_judge)


def judge_config(args: argparse.Namespace, section: JudgeSection, cache: Path) -> JudgeConfig:
    """The judge: the command line's words over the run's own section.

    Raises:
        ConfigError: no model is named.
        JudgeError: the judge cannot be as described.
    """
    from fs_fedmllm.tools.judge import JudgeConfig

    def word(name: str, unknown: object = None) -> Any:
        given = getattr(args, name)
        own = getattr(section, name) if given is None else given
        return None if own == unknown else own

    if not word("model"):
        raise ConfigError("No judge is named: give --model, or set fedmllm.judge.model in the run's configuration.")
    return JudgeConfig(
        model=word("model"),
        cache=cache,
        base_url=word("base_url") or "",
        api_key_env=word("api_key_env") or "",
        allow_undated_model=args.allow_undated_model,
        prompt=word("prompt"),
        price_in=word("price_in", -1.0),
        price_out=word("price_out", -1.0),
        max_cost=word("max_cost", 0.0),
        max_total_tokens=word("max_total_tokens", 0),
        concurrency=word("concurrency"),
    )


def rows_of(predictions: Path) -> list[JudgeRow]:
    """The generated answers of an evaluation, each test row with all that it has.

    Args:
        predictions: their file; one that is not there holds none.
    """
    from fs_fedmllm.evaluation.predictions import read_predictions, shown_as
    from fs_fedmllm.tools.judge import JudgeRow

    return [
        JudgeRow(
            id=p.id if p.client is None else f"client_{p.client}/{p.id}",
            question=p.question or "", reference=p.reference, answer=p.answer, kind=p.kind,
        )
        for p in shown_as(read_predictions(predictions) if predictions.is_file() else [], "both")
        if p.answer is not None and p.reference is not None
    ]  # fmt: skip


def answers_of(folder: Path, test_sets: Sequence[str], *, zero_shot: bool) -> dict[Path, list[JudgeRow]]:
    """What of a run is to be graded, by the file that the verdicts go to.

    Args:
        folder: of the run.
        test_sets: names of its further test sets.
        zero_shot: whether answers before round 0 are graded too.

    Raises:
        ConfigError: the run generated no answers, or kept none of before round 0.
    """
    from fs_fedmllm.evaluation.predictions import file_of
    from fs_fedmllm.runs.run_folder import ZERO_SHOT

    found: dict[Path, list[JudgeRow]] = {}
    for place in (folder, *([folder / ZERO_SHOT] if zero_shot else [])):
        rows = {name: rows_of(place / file_of(name)) for name in ("", *test_sets)}
        if not any(rows.values()):
            raise ConfigError(
                f"{place} has no generated answers to grade: "
                + ("its task is one of options." if place == folder else "fedmllm.eval.zero_shot was off, or the run "
                   "is of a release that kept none. Leave --zero-shot out.")
            )  # fmt: skip
        found |= {place / file_of(name, "judge", ".json"): own for name, own in rows.items() if own}
    return found


def _judge(args: argparse.Namespace) -> int:
    from fs_fedmllm import config as schema
    from fs_fedmllm.config.test_sets import set_options

    incomplete = False
    for folder in _runs([Path(name) for name in args.folders]):
        config = schema.load(folder / "resolved_config.yaml", host=True)
        cache = Path(args.cache) if args.cache else folder / "judge_cache.jsonl"
        judge = judge_config(args, config.fedmllm.judge, cache)
        answers = answers_of(folder, [*set_options(config)], zero_shot=args.zero_shot)
        incomplete |= not _grade(answers, judge, folder)
    return EXIT_INCOMPLETE if incomplete else 0


def _grade(answers: Mapping[Path, Sequence[JudgeRow]], judge: JudgeConfig, folder: Path) -> bool:
    """Grade a run's answers (by the file of their verdicts) under one ceiling; whether every row has been answered."""
    import dataclasses
    import json
    import sys

    from tqdm import tqdm

    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.tools.judge import judge_answers, with_exact_match

    every = [row for rows in answers.values() for row in rows]
    with tqdm(
        total=len(every), unit="answer", file=sys.stderr, desc=folder.name, mininterval=0.5,
        disable=not shows_progress(),
    ) as bar:  # fmt: skip

        def moved(done: int, total: int) -> None:
            bar.n = done
            bar.refresh()

        whole = judge_answers(every, judge, moved)
    verdicts = iter(whole.verdicts)
    for result, rows in answers.items():
        report = dataclasses.replace(whole, verdicts=tuple(itertools.islice(verdicts, len(rows))))
        agreed = with_exact_match(report, rows)
        content = {**report.to_dict(), "agreement_with_exact_match": dataclasses.asdict(agreed)}
        write_atomically(result, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        print(_summary(_title(folder, result), report, agreed))
    print(_spent(whole))
    return whole.complete


def _title(folder: Path, result: Path) -> str:
    test_set = result.stem.removeprefix("judge").removeprefix("_")
    parts = (folder.name, test_set and f"test set {test_set}", "zero-shot" if result.parent != folder else "")
    return ", ".join(filter(None, parts))


def _runs(folders: list[Path]) -> list[Path]:
    """Run folders; a sweep's folder stands for its finished cells."""
    from fs_fedmllm.tools.sweeps.files import CELLS, INDEX

    found: list[Path] = []
    for folder in folders:
        if (folder / INDEX).is_file():
            found += sorted(path.parent for path in (folder / CELLS).glob("*/results.json"))
        else:
            found.append(folder)
    return found


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _summary(title: str, report: Any, agreed: Any) -> str:
    scores = report.scores
    lines = [f"{title}: judged by {report.model}, {scores.rows} answers"]
    for name, own in (("overall", scores), *report.by_kind().items()):
        lines.append(
            f"  {name}: {_share(own.accuracy)} correct (between {_share(own.low)} and {_share(own.high)}); "
            + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in own.counts.items() if count)
        )
    kappa = "-" if agreed.kappa is None else f"{agreed.kappa:.2f}"
    lines.append(f"  agrees with exact match on {_share(agreed.accuracy)} of {agreed.compared} answers, kappa {kappa}")
    return "\n".join(lines)


def _spent(report: Any) -> str:
    """What a run's verdicts took, and why they are not complete."""
    cost = "" if report.cost is None else f", cost {report.cost:.4f}"
    lines = [f"  {report.requests} requests now, {report.usage.total:,} tokens in all{cost}"]
    if report.stopped:
        lines.append(f"  stopped: {report.stopped}; the same command resumes from here")
    return "\n".join(lines)
