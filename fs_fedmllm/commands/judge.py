"""``fs-fedmllm judge``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.errors import ConfigError

if TYPE_CHECKING:
    from fs_fedmllm.config import JudgeSection
    from fs_fedmllm.tools.judge import JudgeConfig, JudgeRow

RESULT = "judge.json"
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


def rows_of(folder: Path) -> list[JudgeRow]:
    """The generated answers of a run's last evaluation, each test row with all that it has.

    Raises:
        ConfigError: the run generated no answers.
    """
    from fs_fedmllm.evaluation.predictions import FILE, read_predictions, shown_as
    from fs_fedmllm.tools.judge import JudgeRow

    rows = [
        JudgeRow(
            id=p.id if p.client is None else f"client_{p.client}/{p.id}",
            question=p.question or "", reference=p.reference, answer=p.answer, kind=p.kind,
        )
        for p in shown_as(read_predictions(folder / FILE), "both")
        if p.answer is not None and p.reference is not None
    ]  # fmt: skip
    if not rows:
        raise ConfigError(f"{folder} has no generated answers to grade: its task is one of options.")
    return rows


def _judge(args: argparse.Namespace) -> int:
    import dataclasses
    import json
    import sys

    from tqdm import tqdm

    from fs_fedmllm import config as schema
    from fs_fedmllm.files.atomic import write_atomically
    from fs_fedmllm.runs.verbosity import shows_progress
    from fs_fedmllm.tools.judge import judge_answers, with_exact_match

    incomplete = False
    for folder in _runs([Path(name) for name in args.folders]):
        section = schema.load(folder / "resolved_config.yaml", host=True).fedmllm.judge
        judge = judge_config(args, section, Path(args.cache) if args.cache else folder / "judge_cache.jsonl")
        rows = rows_of(folder)
        with tqdm(
            total=len(rows), unit="answer", file=sys.stderr, desc=folder.name, mininterval=0.5,
            disable=not shows_progress(),
        ) as bar:  # fmt: skip

            def moved(done: int, total: int, bar: Any = bar) -> None:
                bar.n = done
                bar.refresh()

            report = judge_answers(rows, judge, moved)
        agreed = with_exact_match(report, rows)
        content = {**report.to_dict(), "agreement_with_exact_match": dataclasses.asdict(agreed)}
        write_atomically(folder / RESULT, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        print(_summary(folder, report, agreed))
        incomplete |= not report.complete
    return EXIT_INCOMPLETE if incomplete else 0


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


def _summary(folder: Path, report: Any, agreed: Any) -> str:
    scores = report.scores
    lines = [f"{folder.name}: judged by {report.model}, {scores.rows} answers"]
    for name, own in (("overall", scores), *report.by_kind().items()):
        lines.append(
            f"  {name}: {_share(own.accuracy)} correct (between {_share(own.low)} and {_share(own.high)}); "
            + ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in own.counts.items() if count)
        )
    kappa = "-" if agreed.kappa is None else f"{agreed.kappa:.2f}"
    lines.append(f"  agrees with exact match on {_share(agreed.accuracy)} of {agreed.compared} answers, kappa {kappa}")
    cost = "" if report.cost is None else f", cost {report.cost:.4f}"
    lines.append(f"  {report.requests} requests now, {report.usage.total:,} tokens in all{cost}")
    if report.stopped:
        lines.append(f"  stopped: {report.stopped}; the same command resumes from here")
    return "\n".join(lines)
