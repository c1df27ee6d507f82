"""Metrics of the user's own, by path: local modules of the ``evaluate`` library, on the run's predictions.

A path is code that the user runs. The file is imported from where it lies, with the modules beside it;
``evaluate.load`` would copy it, and ask the hub for what it does not find.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fs_fedmllm.config.metric_paths import NAME, check_metric_files, metric_paths, script_of
from fs_fedmllm.data.template import Template
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.evaluation.metrics import MetricError
from fs_fedmllm.evaluation.predictions import Prediction
from fs_fedmllm.extras import require_extra
from fs_fedmllm.keys import is_number

#: Characters of another package's error message that are repeated.
_REPEATED = 300

Inputs = Callable[[Prediction], tuple[Any, Any]]


@dataclass(frozen=True)
class LocalMetric:
    """A metric by path, ready to compute.

    Attributes:
        name: of the file; a figure is called ``<name>``, or ``<name>_<figure>`` where the metric calls it otherwise.
        path: as the configuration has it.
        inputs: a row's prediction and reference, of the kinds that the metric takes.
        compute: ``(predictions, references)`` to figures.
    """

    name: str
    path: str
    inputs: Inputs
    compute: Callable[[list[Any], list[Any]], Any]

    def figures(self, rows: Sequence[Prediction]) -> dict[str, float]:
        """The metric of the rows, and of each kind of question where there are several (``open_<name>``).

        What is None or NaN is undefined on these rows and left out.

        Args:
            rows: of one view.

        Raises:
            MetricError: the metric fails, or what it gives is no mapping of names to numbers.
        """
        found = self._of(rows, "")
        kinds = sorted({row.kind for row in rows if row.kind})
        for kind in kinds if len(kinds) > 1 else ():
            found |= self._of([row for row in rows if row.kind == kind], f"{kind}_")
        return found

    def _of(self, rows: Sequence[Prediction], prefix: str) -> dict[str, float]:
        pairs = [self.inputs(row) for row in rows]
        try:
            given = self.compute([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        except Exception as error:  # the user's code may do anything
            raise MetricError(f"{_told(self.path)} fails on {len(rows)} rows: {_said(error)}") from error
        if not isinstance(given, Mapping):
            raise MetricError(
                f"{_told(self.path)} gives {type(given).__name__} and no mapping of names to numbers; a metric's "
                "_compute returns, for example, {'overlap': 0.5}."
            )
        numbers = {name: _number(self.path, name, value) for name, value in given.items()}
        return {
            prefix + (self.name if name == self.name else f"{self.name}_{name}"): value
            for name, value in numbers.items()
            if value is not None
        }


def load_local_metrics(entries: Sequence[str], template: Template, *, scores: bool) -> tuple[LocalMetric, ...]:
    """Load the metrics that are given by path.

    Args:
        entries: ``fedmllm.eval.metrics``; the names in it are left to others.
        template: of the run's rows; it says what they can give to a metric.
        scores: whether a choice is made by the options' likelihoods, not parsed from a text.

    Raises:
        ConfigError: a file is missing, is no metric or takes what these rows do not have; ``evaluate`` is not
            installed.
    """
    paths = metric_paths(entries)
    if not paths:
        return ()
    require_extra("evaluate", f"fedmllm.eval.metrics: {paths[0]}")
    check_metric_files(paths)
    return tuple(_load(path, template, scores) for path in paths)


def _load(path: str, template: Template, scores: bool) -> LocalMetric:
    import evaluate

    script = script_of(path)
    module = _imported(path, script)
    # By where the class is defined: a metric that the script builds on is not the one it offers.
    found: list[Any] = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, evaluate.Metric) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        several = f"defines {', '.join(cls.__name__ for cls in found)}; keep one" if found else "defines none"
        raise ConfigError(
            f"{_told(path)} must be a file with one class that is an evaluate.Metric; {script} {several}."
        )
    (cls,) = found
    if cls._download_and_prepare is not evaluate.EvaluationModule._download_and_prepare:
        raise ConfigError(
            f"{_told(path)} downloads files of its own ({cls.__name__}._download_and_prepare), and a run downloads "
            "nothing for a metric. Let it read files that lie beside it."
        )
    try:
        with tempfile.TemporaryDirectory() as scratch:  # evaluate makes a folder, though rows are kept in memory
            metric = cls(keep_in_memory=True, cache_dir=scratch, seed=0)
        shapes = metric.features if isinstance(metric.features, list) else [metric.features]
    except Exception as error:  # the user's code may do anything
        raise ConfigError(f"{_told(path)} cannot be set up: {_said(error)}") from error
    for features in shapes:
        inputs = _inputs(features, template, scores)
        if inputs is not None:
            return LocalMetric(
                script.stem,
                path,
                inputs,
                lambda predictions, references: metric.compute(predictions=predictions, references=references),
            )
    asked = " or ".join("{" + ", ".join(f"{k}: {_kind(v)}" for k, v in shape.items()) + "}" for shape in shapes)
    raise ConfigError(
        f"{_told(path)} takes {asked}, and rows of the template {template.name!r} give predictions and references as "
        f"{_offered(template, scores)}. Use a metric over these."
    )


def _imported(path: str, script: Path) -> ModuleType:
    """The script as a module of a package made of its folder, so that it may import what lies beside it."""
    parent = ModuleType(f"_fs_fedmllm_metric_{sha256(str(script).encode()).hexdigest()[:16]}")
    parent.__path__ = [str(script.parent)]
    spec = importlib.util.spec_from_file_location(f"{parent.__name__}.{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[parent.__name__] = parent
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may do anything
        del sys.modules[spec.name]
        raise ConfigError(f"{_told(path)} cannot be imported from {script}: {_said(error)}") from error
    return module


def _kind(feature: Any) -> str:
    """``text``, ``int``, ``float``, ``texts`` (several for a row), or what else it is called."""
    nested = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    if nested is not None:
        inner = _kind(nested)
        return "texts" if inner == "text" else f"lists of {inner}"
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    if "string" in dtype:
        return "text"
    if dtype.startswith(("int", "uint")):
        return "int"
    return "float" if dtype.startswith("float") else dtype


def _inputs(features: Mapping[str, Any], template: Template, scores: bool) -> Inputs | None:
    """How rows become what a metric takes; None if they cannot."""
    if set(features) != {"predictions", "references"}:
        return None
    given, wanted = _kind(features["predictions"]), _kind(features["references"])
    choice, options = template.task == "choice", template.options
    if given == "text" and wanted in ("text", "texts"):

        def texts(row: Prediction) -> tuple[Any, Any]:
            chosen = options[row.decision] if row.decision is not None and row.decision in range(len(options)) else ""
            answer = chosen if choice and chosen else row.answer or ""
            reference = options[row.label] if choice and row.label is not None else row.reference or ""
            return answer, [reference] if wanted == "texts" else reference

        return texts
    if choice and given == "int" and wanted == "int":
        return lambda row: (row.decision, row.label)
    if choice and scores and template.metric == "auc" and given == "float" and wanted in ("int", "float"):
        positive = template.positive
        return lambda row: ((row.log_probs or ())[positive], int(row.label == positive))
    return None


def _offered(template: Template, scores: bool) -> str:
    if template.task != "choice":
        return "text (the answers)"
    score = f", or float and int (log-probability of {template.options[template.positive]!r}, and 1 where it is right)"
    return "text (the options), int (their numbers, from 0)" + (score if scores and template.metric == "auc" else "")


def _number(path: str, name: Any, value: Any) -> float | None:
    plain = value.item() if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0 else value
    if plain is None:
        return None
    number = is_number(plain) and not math.isinf(plain)
    if not isinstance(name, str) or not NAME.fullmatch(name) or not number:
        raise MetricError(
            f"{_told(path)} gives {_short(repr(name))}: {_short(repr(plain))}, which is not a name (letters, digits, "
            "_ and -) with a finite number. A metric's _compute returns numbers, for example {'overlap': 0.5}."
        )
    return None if math.isnan(plain) else float(plain)


def _told(path: str) -> str:
    return f"The metric {path} of fedmllm.eval.metrics"


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {_short(text)}" if text else f"{type(error).__name__}."


def _short(text: str) -> str:
    return text if len(text) <= _REPEATED else f"{text[:_REPEATED]} [...]"
