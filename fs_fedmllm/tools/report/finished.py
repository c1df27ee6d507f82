"""A finished run, read from its folder; nothing is computed again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fs_fedmllm.config import read_yaml
from fs_fedmllm.config.test_sets import NAME
from fs_fedmllm.errors import FedMLLMError
from fs_fedmllm.evaluation.predictions import Prediction, file_of, read_predictions
from fs_fedmllm.evaluation.recorded import read_results
from fs_fedmllm.files.untrusted import read_json_lines, read_mapping
from fs_fedmllm.keys import is_number
from fs_fedmllm.runs.best_round import zero_shot_of
from fs_fedmllm.runs.run_folder import ZERO_SHOT
from fs_fedmllm.tools.sweeps.figures_line import no_adapter
from fs_fedmllm.tools.sweeps.files import ENDED

#: What the name of a metric of a further test set begins with.
TEST_SETS = "test_sets."


class ReportError(FedMLLMError):
    """A folder that holds no finished run or sweep."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its run folder.
        seed: of the run.
        results: ``results.json``; of a run that diverged, what is known of it.
        diverged: the last round that all clients could be averaged in, or None: the run came to its last round.
        test_set: the further test set that the figures are of; empty for the run's own test rows.
    """

    folder: Path
    seed: int
    results: Mapping[str, Any]
    diverged: int | None = None
    test_set: str = ""

    def of(self, test_set: str) -> Run:
        """The run as it did on a further test set; it has no figures if there is none of that name."""
        if not test_set or test_set in self._kept:
            return self._kept.get(test_set, self)
        results = (self.results.get("test_sets") or {}).get(test_set) or {"evaluations": [{}]}
        self._kept[test_set] = Run(self.folder, self.seed, results, self.diverged, test_set)
        return self._kept[test_set]

    @cached_property
    def _kept(self) -> dict[str, Run]:
        return {}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, as a nested mapping."""
        return read_yaml(self.folder / "resolved_config.yaml")

    @cached_property
    def predictions(self) -> list[Prediction]:
        """Of the last evaluation; empty for a run of an older version."""
        path = self.folder / file_of(self.test_set)
        return read_predictions(path) if path.is_file() else []

    @cached_property
    def lines(self) -> list[Mapping[str, Any]]:
        """``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        try:
            return read_json_lines(path)
        except (OSError, ValueError) as error:
            raise ReportError(f"{path} cannot be read ({error}). Take the file that the run wrote.") from error

    @property
    def made_by(self) -> dict[str, str]:
        """What made the run, as text, by the columns of a file of figures."""
        results = self.results
        return {
            "model": model_name(results),
            "profile": str(results.get("profile", "")),
            "version": str(results.get("version", "")),
            "commit": str(results.get("commit") or "not from a checkout"),
            "config": str(results.get("config_sha256", "")),
            "manifest": str(results.get("manifest_sha256", "")),
            "adapter": str(results.get("adapter_sha256") or no_adapter(self.diverged)),
            "folder": self.folder.name,
        }

    @property
    def has_zero_shot(self) -> bool:
        """Whether the model was evaluated before training, with the prompt that a zero-shot row is about."""
        own = self.config.get("fedmllm")
        if not isinstance(own, Mapping) or "prompt" not in own:
            raise ReportError(
                f"{self.folder / 'resolved_config.yaml'}: fedmllm.prompt is missing. Take the file that the run wrote."
            )
        return own["prompt"] == "original" and bool(self.results.get("zero_shot"))

    def judge(self, at: str) -> Mapping[str, Any]:
        """What a judge said of the answers at an evaluation, if they were graded.

        Args:
            at: as for :meth:`value`. Of the best round there are verdicts if it is the last one.
        """
        if at == "best" and self.results.get("best") != (self.results.get("evaluations") or [None])[-1]:
            return {}
        folder = self.folder / ZERO_SHOT if at == "zero_shot" else self.folder
        path = folder / file_of(self.test_set, "judge", ".json")
        if path not in self._verdicts:
            self._verdicts[path] = read_mapping(path, ReportError) if path.is_file() else {}
        return self._verdicts[path]

    @cached_property
    def _verdicts(self) -> dict[Path, Mapping[str, Any]]:
        return {}

    def value(self, name: str, at: str) -> float | None:
        """A figure of the run; None if it has none of that name, or one that is not finite (an AUC over one class).

        Args:
            name: of an evaluation, or a path after ``results.`` or ``judge.``; any of them after ``test_sets.<name>.``
                is of that further test set. What is below ``results.`` is of the whole run; the model before
                training has none of it.
            at: which evaluation: ``last``, ``best`` or ``zero_shot``.
        """
        test_set, name = of_test_set(name)
        if test_set:
            return self.of(test_set).value(name, at)
        if name.startswith("results."):
            if at == "zero_shot" and not name.startswith("results.zero_shot."):
                return None  # that is of the run, which the model before training had none of
            return _number(self.results, name.removeprefix("results.").split("."))
        if name.startswith("judge."):
            return _number(self.judge(at), name.removeprefix("judge.").split("."))
        if self.diverged is not None and at == "last":
            return None
        evaluations = self.results.get("evaluations") or [{}]
        chosen = evaluations[-1] if at == "last" else self.results.get(at)
        return _number(chosen, [name])

    def curve(self, name: str) -> dict[int, float]:
        """Round -> a client update's figure, mean over the clients; or rounds done -> an evaluation's figure."""
        found: dict[int, list[float]] = {}
        test_set, name = of_test_set(name)
        for line in self.lines:
            kinds = ("test_set",) if test_set else ("turn", "evaluation")
            if line.get("kind") in kinds and line.get("set", "") == test_set:
                number = _number(line, [name])
                if number is not None:
                    found.setdefault(int(line["round"]) + (line["kind"] == "turn"), []).append(number)
        return {place: sum(values) / len(values) for place, values in sorted(found.items())}


def model_name(results: Mapping[str, Any]) -> str:
    """The model that a run took: its id on the hub, or the name of its folder; empty for a run of an older version."""
    path = str(results.get("model") or "")
    return Path(path).name if path.startswith(("/", "~", ".")) else path


def of_test_set(name: str) -> tuple[str, str]:
    """The further test set that a metric's name is of (empty for the run's own rows), and the rest of the name.

    A set's name is part of files' names, so what cannot be one is none.
    """
    test_set, _, rest = name.removeprefix(TEST_SETS).partition(".")
    if not name.startswith(TEST_SETS) or not NAME.fullmatch(test_set):
        return "", name
    return test_set, rest


def _number(tree: Any, path: Sequence[str]) -> float | None:
    for part in path:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return figure_of(tree)


def figure_of(value: Any) -> float | None:
    """What a file has for a figure, which is null or not finite where it is undefined; None then."""
    return float(value) if is_number(value) and abs(value) <= sys.float_info.max else None


def read_run(folder: Path) -> Run | None:
    """A finished run, or None if the folder holds none.

    Raises:
        RecordError: its results are no results of ours.
        ReportError: of a run that diverged, what is known of it cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        return _diverged(folder)
    results = read_results(path)
    try:
        return Run(folder, int(results["seed"]), results)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise ReportError(f"{path} cannot be read ({error}). Take the file that the run wrote.") from error


def _diverged(folder: Path) -> Run | None:
    path = folder / ENDED
    if not path.is_file():
        return None
    ended = read_mapping(path, ReportError)
    try:
        seed = int(ended["seed"])
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise ReportError(f"{path} cannot be read ({error}). Take the file that the run wrote.") from error
    lines = Run(folder, seed, {}).lines
    rounds = sum(line["kind"] == "round" for line in lines)
    sets = {line["set"]: _evaluated(lines, line["set"]) for line in lines if line["kind"] == "test_set"}
    results = {**ended, **_evaluated(lines), "rounds": rounds, "test_sets": sets}
    return Run(folder, seed, results, rounds)


def _evaluated(lines: Sequence[Mapping[str, Any]], test_set: str = "") -> dict[str, Any]:
    """Evaluations of a run without results, from its lines."""
    kind = "test_set" if test_set else "evaluation"
    own = [line for line in lines if line["kind"] == kind and line.get("set", "") == test_set]
    evaluations = [{k: v for k, v in line.items() if k not in ("kind", "set")} for line in own]
    return {"evaluations": evaluations, "zero_shot": zero_shot_of(evaluations)}
