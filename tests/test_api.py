"""The Python face: what ``fs_fedmllm`` offers at its top, and algorithms from outside the package."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from short_runs import CONFIGS, SHORT

import fs_fedmllm
from fs_fedmllm.algorithms import METHODS, REGULARIZERS
from fs_fedmllm.config import to_mapping
from fs_fedmllm.errors import ConfigError
from fs_fedmllm.keys import POSITIVE, key
from fs_fedmllm.registry import Registry

WORDS = dict(zip(SHORT[::2], SHORT[1::2], strict=True)) | {"fedmllm.eval.zero_shot": True}


@pytest.fixture
def overrides(tmp_path):
    return WORDS | {"outdir": str(tmp_path / "exp"), "federate.client_num": 3, "federate.sample_client_num": 2}


def test_the_public_names_are_there_and_cost_nothing() -> None:
    assert set(fs_fedmllm.__all__) <= set(dir(fs_fedmllm))
    assert all(getattr(fs_fedmllm, name) is not None for name in fs_fedmllm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fs_fedmllm.nothing
    code = "import sys, fs_fedmllm; fs_fedmllm.Config, fs_fedmllm.run, fs_fedmllm.Callback; "
    code += "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_a_run_from_python(overrides) -> None:
    seen = []

    class Watch(fs_fedmllm.Callback):
        def on_client_end(self, round_index, update):
            seen.append(("client", round_index, update.client))

        def on_round_end(self, state, metrics):
            seen.append(("round", state.round, metrics["clients"]))

        def on_evaluation_end(self, done_rounds, metrics):
            seen.append(("evaluation", done_rounds, metrics["test_acc"]))

        def on_test_set_end(self, done_rounds, name, metrics):
            seen.append((f"set {name}", done_rounds, metrics["test_acc"]))

    sets = {"fedmllm.test_sets": {"panel": {"type": "digits_panel"}}}
    with torch.no_grad():  # the callbacks from an iterator, which can be gone through once
        result = fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", callbacks=iter([Watch()]), seed=7, **overrides, **sets)
    assert [event[:2] for event in seen] == [
        *[("evaluation", 0), ("set panel", 0), ("client", 0), ("client", 0), ("round", 1)],
        *[("client", 1), ("client", 1), ("round", 2), ("evaluation", 2), ("set panel", 2)],
    ]
    assert result.results["test_sets"]["panel"]["evaluations"][-1]["test_acc"] == seen[-1][2]
    assert result.metrics["test_acc"] == seen[-2][2] and [row["round"] for row in result.history] == [0, 2]
    assert result.results["seed"] == 7 and set(result.manifest["clients"]) == {"1", "2", "3"}
    assert result.best is not None and (result.adapter / "adapter_model.safetensors").is_file()

    adapter = fs_fedmllm.load_adapter(result.adapter)
    (answer,) = adapter.predict([fs_fedmllm.Sample(id="1", image=None, text="a tap drips", answer="")])
    assert answer.answer in result.results["options"]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
    same = fs_fedmllm.run(fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", seed=7, **overrides))
    assert same.results["adapter_sha256"] == result.results["adapter_sha256"]


def test_overrides_are_checked_like_any_key() -> None:
    base = CONFIGS / "aligned_a05.yaml"
    config = fs_fedmllm.load_config(base, federate__total_round_num=3, **{"fedmllm.train.batch_size": 2})
    assert (config.federate.total_round_num, config.fedmllm.train.batch_size) == (3, 2)
    with pytest.raises(ConfigError, match=r"unknown key 'federate\.rounds'"):
        fs_fedmllm.load_config(base, federate__rounds=3)
    with pytest.raises(ConfigError, match="seed must be a whole number"):
        fs_fedmllm.load_config(base, seed__more=1)
    with pytest.raises(ConfigError, match="federate is a value, not a section"):
        fs_fedmllm.load_config({"federate": 3}, federate__client_num=2)


def test_values_of_python_are_taken_for_what_they_are() -> None:
    import enum
    from pathlib import Path

    import numpy as np
    import yaml

    seed, place = enum.IntEnum("Seed", "a b").b, enum.Enum("Place", {"here": Path("/tmp/x")}).here
    given = {"seed": seed, "outdir": place, "expname": np.str_("mine"), "fedmllm.eval.zero_shot": np.bool_(False),
             "data.splitter_args": ({"alpha": np.float64(0.5)},), "fedmllm.train": {"batch_size": np.int64(2)},
             "federate": {"total_round_num": torch.tensor(3)}}  # fmt: skip
    config = fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", **given)
    assert (config.seed, config.outdir, config.expname) == (2, "/tmp/x", "mine") and not config.fedmllm.eval.zero_shot
    assert (config.federate.total_round_num, config.fedmllm.train.batch_size) == (3, 2)
    assert config.federate.client_num == fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml").federate.client_num
    yaml.safe_dump(to_mapping(config))
    itself: dict = {}
    itself["x"] = itself
    for odd, said in (
        ({"federate": None}, "federate is a section, and None is given"),
        (
            {"fedmllm__data": {"file": {1, 2}}},
            r"fedmllm__data\.file is .* a builtins\.set, which a configuration cannot",
        ),
        ({"data__splitter_args": np.zeros(2)}, "numpy.ndarray, which a configuration cannot hold"),
        ({"fedmllm__parameters": itself}, "does it hold itself"),
    ):
        with pytest.raises(ConfigError, match=said):
            fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", **odd)
    for name in ("", "configs", "."):
        with pytest.raises(ConfigError, match="neither a file here nor one that ships"):
            fs_fedmllm.load_config(name)


def test_callbacks_that_no_run_calls_are_refused() -> None:
    class Typo(fs_fedmllm.Callback):
        def on_round_ended(self, state, metrics):
            pass

    for odd, said in (
        ([Typo()], r"method 'on_round_ended' that no run calls; did you mean 'on_round_end'"),
        ([fs_fedmllm.Callback], "Make an object of it"),
        ([print], "is no fs_fedmllm.Callback"),
        (fs_fedmllm.Callback(), "give a list of callbacks"),
        (None, "give a list of callbacks"),
    ):
        with pytest.raises(ConfigError, match=said):
            fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", callbacks=odd)


@pytest.fixture
def clean_registries():
    before = dict(METHODS._known), dict(REGULARIZERS._known)
    yield
    METHODS._known, REGULARIZERS._known = before


@dataclasses.dataclass(frozen=True)
class SignParameters:
    """``fedmllm.parameters.sign``."""

    step: float = key(1.0e-3, "Length of a step.", valid=POSITIVE)


@dataclasses.dataclass(frozen=True)
class SignServer(fs_fedmllm.ServerOptimizer):
    """W <- W + step sign(Delta); its clients keep a count of their updates."""

    name: ClassVar[str] = "sign"
    section: ClassVar[str] = "sign"
    parameters: ClassVar[type | None] = SignParameters

    @classmethod
    def build(cls, *, parameters=None, **settings):
        return cls(lr=parameters.step)

    def init(self, params):
        return {}

    def step(self, params, state, mean_delta):
        return {n: p + self.lr * mean_delta[n].sign() if n in mean_delta else p for n, p in params.items()}, state

    @classmethod
    def client(cls, parameters, context):
        return Counting()


class Counting(fs_fedmllm.ClientHalf):
    def begin(self, received, kept, start):
        self.count = kept.get("sign/count", torch.zeros(1)) + 1
        return start

    def finish(self, trained, sent):
        return sent, {"sign/count": self.count}


def test_an_algorithm_from_outside_the_package(overrides, clean_registries, monkeypatch) -> None:
    from fs_fedmllm.runs import session

    counts = []
    monkeypatch.setattr(session, "write_adapters", lambda folder, pieces, state, write=session.write_adapters: (
        counts.append({client: float(kept["sign/count"]) for client, kept in state.clients.items()})
        or write(folder, pieces, state)
    ))  # fmt: skip
    settings = overrides | {"federate.sample_client_num": 3, "fedmllm.parameters": {"sign": {"step": "2e-3"}}}
    result = fs_fedmllm.run(CONFIGS / "aligned_a05.yaml", algorithm=SignServer, **settings)
    assert counts == [{1: 2.0, 2: 2.0, 3: 2.0}] and result.results["method"] == "sign"
    from fs_fedmllm.models.export import read_adapter
    from fs_fedmllm.rounds.federation import Federation
    from fs_fedmllm.scenarios.federated_data import prepare_data

    config = fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", federate__method="sign", **settings)
    start = Federation.build(config, prepare_data(config)).initial_state()
    moved = read_adapter(result.adapter, start)
    steps = torch.cat([((moved[n] - start[n]) / 2e-3).flatten() for n in start])
    assert (steps.abs() > 0.5).any() and torch.allclose(steps, steps.round(), atol=1e-2)
    assert steps.abs().max() <= 2.01  # two rounds, a step of 2e-3 each


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sign": {"step": 0}}, r"fedmllm\.parameters\.sign\.step is 0"),
        ({"sign": {"stride": 1}}, r"unknown key 'fedmllm\.parameters\.sign\.stride'"),
        ({"sgin": {"step": 1}}, r"fedmllm\.parameters\.sgin belongs to no algorithm of this run; there is sign"),
    ],
)
def test_parameters_of_outside_algorithms_are_checked(clean_registries, parameters, message) -> None:
    fs_fedmllm.register_algorithm(SignServer)
    with pytest.raises(ConfigError, match=message):
        fs_fedmllm.load_config(
            CONFIGS / "aligned_a05.yaml", federate__method="sign", **{"fedmllm.parameters": parameters}
        )


class FedExP(fs_fedmllm.ServerOptimizer):
    """A step as long as the updates disagree (Jhunjhunwala et al. 2023): clients send their squared length too."""

    name: ClassVar[str] = "fedexp"
    weighting: ClassVar[str] = "uniform"

    def init(self, params):
        return {}

    def expected(self, params):
        return params | {"fedexp/square": torch.zeros(1)}

    def step(self, params, state, mean_delta):
        deltas = {name: delta for name, delta in mean_delta.items() if name in params}
        length = sum(float(delta.double().square().sum()) for delta in deltas.values())
        longer = max(1.0, float(mean_delta["fedexp/square"]) / (2 * length))
        return {n: p + self.lr * longer * deltas[n] if n in deltas else p for n, p in params.items()}, {
            "longer": torch.tensor([longer])
        }

    @classmethod
    def client(cls, parameters, context):
        return SquaredLength()


class SquaredLength(fs_fedmllm.ClientHalf):
    def begin(self, received, kept, start):
        self.start = start
        return start

    def finish(self, trained, sent):
        square = sum((tensor - self.start[name]).square().sum() for name, tensor in sent.items())
        return sent | {"fedexp/square": square.reshape(1)}, {}


def test_a_method_from_outside_whose_clients_send_more_than_an_adapter(clean_registries) -> None:
    from fs_fedmllm.rounds.client_update import ClientUpdate
    from fs_fedmllm.rounds.server import ServerSide
    from fs_fedmllm.rounds.trainer import UpdateLog

    fs_fedmllm.register_algorithm(FedExP)
    assert FedExP.sends_beside and METHODS["scaffold"].sends_beside and not METHODS["feddyn"].sends_beside
    config = fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", federate__method="fedexp")
    server = ServerSide.of(config, FedExP())
    params = {"a": torch.zeros(2)}
    current = server.begin(0, [1, 2], params, {})
    for client, value in ((1, [3.0, 0.0]), (2, [0.0, 1.0])):
        sent = {"a": torch.tensor(value), "fedexp/square": torch.tensor([sum(x * x for x in value)])}
        server.take(current, ClientUpdate(client, 1, sent, UpdateLog(0.0, 0.0, 0.0, 1, 1, 0.0), {}))
    new, state = server.step(current, params, {})
    assert state["longer"].tolist() == [1.0]  # mean square 5, squared length of the mean 2.5
    assert new["a"].tolist() == [1.5, 0.5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"fedmllm.privacy.dp": {"clip_norm": 0.5, "noise_multiplier": 1.0}},
            "fedexp sends or sums what fedmllm.privacy.dp.clip_norm does not bound",
        ),
        ({"fedmllm.async.buffer": 1}, "fedexp has no server, or one that .* takes more than their adapters"),
        ({"fedmllm.async.buffer": 1, "federate.method": "scaffold"}, "scaffold has no server, or one that keeps"),
    ],
)
def test_what_is_sent_beside_the_adapter_is_refused_where_nothing_bounds_it(
    clean_registries, setting, message
) -> None:
    fs_fedmllm.register_algorithm(FedExP)
    words = {"federate.method": "fedexp", "federate.sample_client_num": 3} | setting
    with pytest.raises(ConfigError, match=message):
        fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", **words)


def test_names_of_ours_cannot_be_taken(clean_registries) -> None:
    with pytest.raises(ConfigError, match="'fedavg' is a name of fs-fedmllm's own"):
        fs_fedmllm.register_algorithm(type("Mine", (SignServer,), {"name": "fedavg"}))


@pytest.mark.parametrize(
    ("group", "name", "settings"),
    [
        ("algorithms", "fedyogi", {"federate.method": "fedyogi"}),
        ("regularizers", "moon", {"fedmllm.regularizer.type": "moon"}),
        ("aggregators", "krum", {"fedmllm.aggregation.rule": "krum"}),
        ("datasets", "digits_match", {}),
        ("scenarios", "hybrid", {"data.splitter": "fedmllm_hybrid", "data.splitter_args": [{"alpha": 1, "p": 0.6}]}),
        ("metrics", "acc", {"fedmllm.eval.metrics": ["acc"]}),
        ("families", "smolvlm", {}),
    ],
)
def test_an_entry_point_with_a_name_of_ours_is_refused_where_the_name_is_used(
    group, name, settings, overrides, monkeypatch
) -> None:
    from fs_fedmllm import registry
    from fs_fedmllm.data.registry import known_options
    from fs_fedmllm.models.families import family_of

    points = {f"fs_fedmllm.{group}": [EntryPoint(name, f"their:{name}", f"fs_fedmllm.{group}")]}
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))
    registry._entry_points.cache_clear()
    try:
        fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", **overrides)  # which does not use the name
        says = rf"'{name}' is a name of fs-fedmllm's own in fs_fedmllm\.{group}, and their:{name} is an entry point of"
        with pytest.raises(ConfigError, match=says):
            if not settings:
                {"families": family_of, "datasets": known_options}[group](name)
            fs_fedmllm.load_config(CONFIGS / "aligned_a05.yaml", **{**overrides, **settings})
    finally:
        registry._entry_points.cache_clear()


def test_an_entry_point_is_imported_when_its_name_is_asked_for(tmp_path, monkeypatch) -> None:
    from fs_fedmllm import registry

    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[some.group]\nmine = outside_module:VALUE\nbroken = no_such_module:X\n")
    (tmp_path / "outside_module.py").write_text("VALUE = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    found: Registry[int] = Registry("some.group", {"ours": 1})
    assert list(found) == ["ours", "mine", "broken"] and "outside_module" not in sys.modules
    assert found["mine"] == 42 and "nothing" not in found
    with pytest.raises(ConfigError, match=r"'broken' is an entry point of some\.group, but no_such_module:X cannot"):
        _ = found["broken"]
    registry._entry_points.cache_clear()
