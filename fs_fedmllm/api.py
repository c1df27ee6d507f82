"""Runs, adapters and extensions from Python; what ``fs_fedmllm`` offers at its top is defined here.

The same configuration gives the same adapter as ``fs-fedmllm run --engine embedded``, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs_fedmllm.algorithms import METHODS, REGULARIZERS, Method, Regularizer
from fs_fedmllm.config import Config, from_mapping, read_yaml, to_mapping
from fs_fedmllm.config.aggregation import RULES
from fs_fedmllm.config.from_python import given, plain
from fs_fedmllm.config.nearest import nearest
from fs_fedmllm.config.open_names import OUTSIDE_METRICS, SCENARIOS
from fs_fedmllm.config.places import placed
from fs_fedmllm.errors import ConfigError

if TYPE_CHECKING:
    from fs_fedmllm.aggregators import Aggregator
    from fs_fedmllm.data.sample import Dataset, Sample
    from fs_fedmllm.evaluation.predictions import Prediction
    from fs_fedmllm.evaluation.row_metrics import RowMetric
    from fs_fedmllm.models.families.base import Family
    from fs_fedmllm.rounds.client_update import ClientUpdate
    from fs_fedmllm.runs.checkpoint import RunState
    from fs_fedmllm.scenarios import Scenario
    from fs_fedmllm.tools.adapters.opening import Opened
    from fs_fedmllm.tools.adapters.predict import Answer


class Callback:
    """What happens beside a run; override what you need. Changing the state changes the run."""

    def on_client_end(self, round_index: int, update: ClientUpdate) -> None:
        """After a client's update.

        Args:
            round_index: from 0.
            update: what the client sends, and the figures of its training (``update.log``).
        """

    def on_round_end(self, state: RunState, metrics: dict[str, Any]) -> None:
        """After the server's step.

        Args:
            state: the run: ``state.round`` rounds are done, ``state.params`` is the global adapter.
            metrics: the round's figures, as in metrics.jsonl.
        """

    def on_evaluation_end(self, done_rounds: int, metrics: dict[str, float]) -> None:
        """After an evaluation.

        Args:
            done_rounds: rounds done; 0 is the zero-shot evaluation.
            metrics: ``val_*`` and ``test_*`` figures of the run's own rows.
        """

    def on_test_set_end(self, done_rounds: int, name: str, metrics: dict[str, float]) -> None:
        """After an evaluation on a further test set; it follows that on the run's own rows.

        Args:
            done_rounds: as for :meth:`on_evaluation_end`.
            name: as in ``fedmllm.test_sets``.
            metrics: ``test_*`` figures of the set.
        """


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    Attributes:
        metrics: the last evaluation's figures, by name (``test_macro_f1``).
        best: the best evaluation's, with its ``round``; None if nothing was evaluated.
        history: every evaluation in order, one mapping each: ``pandas.DataFrame(result.history)`` is a table.
        folder: the run folder.
        adapter: folder of the final adapter, in PEFT's format; None for ``federate.method: local``, which has none.
        manifest: which client got which rows and what they show, as in manifest.json.
        results: everything, as in results.json.
    """

    metrics: dict[str, float]
    best: dict[str, float] | None
    history: list[dict[str, float]]
    folder: Path
    adapter: Path | None
    manifest: dict[str, Any]
    results: dict[str, Any]


def load_config(config: str | Path | Mapping[str, Any] | Config, **overrides: Any) -> Config:
    """A checked configuration.

    Args:
        config: a YAML file, the name of one that ships (``configs/cross_i3t7.yaml``), a nested mapping, or a
            configuration.
        overrides: values by key; two underscores stand for the dot: ``federate__total_round_num=3``. Dotted keys can
            be given as ``**{"federate.total_round_num": 3}``. A mapping for a section changes the keys that it has.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, a wrong type, or an impossible combination.
    """
    where = "configuration"
    pairs = [pair for name, value in overrides.items() for pair in given(name.replace("__", "."), plain(value, name))]
    if isinstance(config, Config):
        raw = to_mapping(config)
    elif isinstance(config, Mapping):
        raw = {str(name): plain(value, str(name)) for name, value in config.items()}
    else:
        from fs_fedmllm.shipped import find_config

        path = find_config(str(config))
        raw, where = placed(read_yaml(path), path, [name for name, _ in pairs]), str(path)
    for name, value in pairs:
        raw = _with(raw, name.split("."), value, name)
    return from_mapping(raw, where)


def _with(raw: Mapping[str, Any], keys: Sequence[str], value: Any, name: str) -> dict[str, Any]:
    first, *rest = keys
    if not rest:
        return {**raw, first: value}
    inner = raw.get(first) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{name}: {first} is a value, not a section.")
    return {**raw, first: _with(inner, rest, value, name)}


def run(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    algorithm: type[Method] | type[Regularizer] | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> Result:
    """Run a configuration on the embedded engine; an interrupted run with the same ``expname`` goes on.

    Args:
        config: see :func:`load_config`.
        algorithm: a server method or client regulariser of your own; it is registered under its name and chosen.
        callbacks: called while it runs, in their order.
        overrides: see :func:`load_config`.

    Raises:
        FedMLLMError: bad configuration, data, model or updates.
    """
    if algorithm is not None:
        if not (isinstance(algorithm, type) and issubclass(algorithm, Method | Regularizer)):
            raise ConfigError(
                f"run(algorithm=...) is {algorithm!r}: give the class, a ServerOptimizer or a Regularizer of yours, "
                "and no object of it; what it is called by goes into federate.method or fedmllm.regularizer.type."
            )
        if issubclass(algorithm, Regularizer):
            register_regularizer(algorithm)
            overrides = {"fedmllm__regularizer__type": algorithm.name, **overrides}
        else:
            register_algorithm(algorithm)
            overrides = {"federate__method": algorithm.name, **overrides}
    callbacks = _callbacks(callbacks)
    checked = load_config(config, **overrides)
    from fs_fedmllm.lazy import torch
    from fs_fedmllm.runs.listener import Listener
    from fs_fedmllm.runs.simulation import run as run_embedded

    class Calls(Listener):
        def trained(self, round_index: int, update: ClientUpdate) -> None:
            for callback in callbacks:
                callback.on_client_end(round_index, update)

        def round_ended(self, state: RunState, figures: dict[str, Any]) -> None:
            for callback in callbacks:
                callback.on_round_end(state, figures)

        def evaluated(self, done_rounds: int, figures: dict[str, float]) -> None:
            for callback in callbacks:
                callback.on_evaluation_end(done_rounds, figures)

        def test_set_evaluated(self, done_rounds: int, name: str, figures: dict[str, float]) -> None:
            for callback in callbacks:
                callback.on_test_set_end(done_rounds, name, figures)

    label = Path(config).stem if isinstance(config, str | Path) else ""
    with torch.inference_mode(False), torch.enable_grad():  # a run trains, whatever its caller does
        results, folder = run_embedded(checked, listener=Calls(), label=label)
    history = list(results["evaluations"])
    adapter = folder.path / "adapter"
    return Result(
        metrics={name: value for name, value in history[-1].items() if name != "round"} if history else {},
        best=results["best"],
        history=history,
        folder=folder.path,
        adapter=adapter if adapter.is_dir() else None,
        manifest=json.loads((folder.path / "manifest.json").read_text(encoding="utf-8")),
        results=results,
    )


class Adapter:
    """A trained adapter on its base, ready to answer. Made by :func:`load_adapter`."""

    def __init__(self, opened: Opened):
        self._opened = opened

    @property
    def model(self) -> Any:
        """The model with the adapter in it: a PEFT model of transformers."""
        return self._opened.mllm.model

    def predict(self, rows: Sequence[Sample], *, template: str = "", prompt: str = "") -> list[Answer]:
        """Answers, in the order of the rows.

        Args:
            rows: what to ask about; rows with a question of their own are answered in writing.
            template: name or path of a prompt template; empty takes the training's.
            prompt: ``original`` or ``augmented``; empty takes the training's.

        Raises:
            DataError: there is no template and a row has no question, or an image cannot be read.
        """
        from fs_fedmllm.tools.adapters.predict import predict

        return predict(self._opened, rows, template=template, prompt=prompt)


def load_adapter(reference: str | Path, *, base: str = "", use_gpu: bool = False) -> Adapter:
    """Load an adapter into its base.

    Args:
        reference: its folder, or ``hub:owner/name@revision``.
        base: folder or hub id of the base; empty takes what the adapter names.
        use_gpu: on an accelerator.

    Raises:
        FedMLLMError: the adapter or its base cannot be loaded, or do not fit each other.
    """
    from fs_fedmllm.tools.adapters.opening import open_adapter

    return Adapter(open_adapter(str(reference), base=base, use_gpu=use_gpu))


def _callbacks(given: Any) -> list[Callback]:
    """The callbacks, each an object that has no method which is never called.

    Raises:
        ConfigError: one is no callback, or has a method ``on_...`` that no run knows.
    """
    try:
        found = list(given)
    except TypeError as error:
        raise ConfigError(f"run(callbacks=...) is {given!r}: give a list of callbacks, empty for none.") from error
    known = [name for name in vars(Callback) if name.startswith("on_")]
    for callback in found:
        if not isinstance(callback, Callback):
            made = " Make an object of it, with ()." if isinstance(callback, type) else ""
            raise ConfigError(f"run(callbacks=...) has {callback!r}, which is no fs_fedmllm.Callback.{made}")
        for name in dir(callback):
            if name.startswith("on_") and name not in known:
                raise ConfigError(
                    f"The callback {type(callback).__qualname__} has a method {name!r} that no run calls"
                    f"{nearest(name, known)}"
                )
    return found


def _name_of(algorithm: Any, kind: type) -> str:
    name = getattr(algorithm, "name", None)
    if not (isinstance(algorithm, type) and issubclass(algorithm, kind)) or not isinstance(name, str) or not name:
        raise ConfigError(
            f"{algorithm!r} cannot be registered: it must be a class that derives from {kind.__name__} and has a "
            "name, a text, that configurations choose it by (docs/extending.md)."
        )
    return name


def register_algorithm(method: type[Method]) -> type[Method]:
    """Make a server method known by its name, in this process; usable as a decorator.

    Raises:
        ConfigError: the name is one of this package's, or it is no method with a name.
    """
    METHODS.register(_name_of(method, Method), method)
    return method


def register_regularizer(regularizer: type[Regularizer]) -> type[Regularizer]:
    """Make a client regulariser known by its name, in this process; usable as a decorator.

    Raises:
        ConfigError: the name is one of this package's, or it is no regulariser with a name.
    """
    REGULARIZERS.register(_name_of(regularizer, Regularizer), regularizer)
    return regularizer


def register_aggregator(name: str, rule: Callable[..., Aggregator]) -> None:
    """Make an aggregator known as a value of ``fedmllm.aggregation.rule``, in this process.

    Args:
        name: the value.
        rule: ``rule(params, section)``, made anew for every round from the global adapter and ``fedmllm.aggregation``;
            ``rule(params, section, parameters)`` where it has the attributes ``section`` and ``parameters``.

    Raises:
        ConfigError: the name is one of this package's.
    """
    RULES.register(name, rule)


def register_dataset(name: str, load: Callable[..., Dataset]) -> None:
    """Make a data set known as a value of ``data.type``, in this process.

    Args:
        name: the value.
        load: ``load(root, **options)``, or ``load(root, *, findings=None, **options)`` to report all bad rows at once.

    Raises:
        ConfigError: the name is one of this package's.
    """
    from fs_fedmllm.data.registry import DATASETS

    DATASETS.register(name, load)


def register_scenario(name: str, scenario: Scenario) -> None:
    """Make a scenario known in this process: ``data.splitter: fedmllm_<name>``.

    Args:
        name: without the prefix.
        scenario: what deals the rows, and the parameters that it has of its own.

    Raises:
        ConfigError: the name is one of this package's.
    """
    SCENARIOS.register(name, scenario)


def register_metric(name: str, metric: Callable[[Sequence[Prediction]], RowMetric | None]) -> None:
    """Make a metric known in this process; a run that names it in ``fedmllm.eval.metrics`` has it in every evaluation.

    Args:
        name: as it follows the split, ``test_<name>``.
        metric: of the predictions of one view; None where these rows do not have it.

    Raises:
        ConfigError: the name is one of this package's.
    """
    OUTSIDE_METRICS.register(name, metric)


def register_family(model_type: str, family: Family) -> None:
    """Say what is different about a kind of models, in this process.

    Args:
        model_type: as in the checkpoint's config.json.
        family: the description.

    Raises:
        ConfigError: the type is one of this package's.
    """
    from fs_fedmllm.models.families import REGISTERED

    REGISTERED.register(model_type, family)


__all__ = [
    "Adapter",
    "Callback",
    "Result",
    "load_adapter",
    "load_config",
    "register_aggregator",
    "register_algorithm",
    "register_dataset",
    "register_family",
    "register_metric",
    "register_regularizer",
    "register_scenario",
    "run",
]
