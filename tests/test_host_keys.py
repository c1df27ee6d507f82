"""FederatedScope's keys in a configuration: used, or refused with what to use instead; the same on every engine."""

from __future__ import annotations

import logging
import re

import pytest
from short_runs import CONFIGS

from fs_fedmllm import config as schema
from fs_fedmllm.config import host_reading
from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.host_keys import TABLE, host_key
from fs_fedmllm.errors import ConfigError

CROSS = CONFIGS / "cross_i3t7.yaml"
ENGINES = pytest.mark.parametrize("host", [False, True], ids=["embedded", "federatedscope"])


def other_than(value: object) -> object:
    """A value of the same kind that differs."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 3
    return [*value, "x"] if isinstance(value, list) else f"{value}x"


def with_key(path: str, value: object, host: bool = False) -> schema.Config:
    raw = schema.read_yaml(CROSS)
    host_reading.put(raw, path, value)
    return schema.from_mapping(raw, "file.yaml", host=host)


def test_every_key_of_federatedscope_has_an_entry() -> None:
    assert [path for path in DEFAULTS if host_key(path) is None] == []
    assert [path for path in TABLE if not any(d == path or d.startswith(f"{path}.") for d in DEFAULTS)] == [
        "train.optimizer", "train.optimizer.weight_decay", "train.optimizer.eps", "train.optimizer.betas",
    ]  # fmt: skip


def test_what_an_entry_recommends_exists() -> None:
    known = set(schema.known_keys())
    for path, entry in TABLE.items():
        for key in re.findall(r"\b(?:fedmllm|model\.fedmllm|federate|data)\.[a-z_.]*[a-z_\d]", entry.says + entry.to):
            if key in DEFAULTS or key.startswith("fedmllm.switches."):
                continue
            assert any(name == key or name.startswith(f"{key}.") for name in known), f"{path}: {key}"


@ENGINES
def test_a_default_that_is_written_out_asks_for_nothing(host: bool) -> None:
    plain = schema.load(CROSS)
    asks = ("dataloader.batch_size", "grad.grad_clip", "criterion.type")  # a value of theirs is used, or refused
    for path, value in DEFAULTS.items():
        if path not in asks:
            assert with_key(path, value, host) == plain, path


@ENGINES
def test_any_other_value_is_used_or_refused_by_name(host: bool, caplog: pytest.LogCaptureFixture) -> None:
    plain = schema.load(CROSS)
    for path, default in DEFAULTS.items():
        value, entry = other_than(default), host_key(path)
        if host_reading.asks_for_nothing(path, value):
            raise AssertionError(path)
        caplog.clear()
        host_reading._say.cache_clear()  # a line is said once in a process
        with caplog.at_level(logging.WARNING, "fs_fedmllm"):
            try:
                config = with_key(path, value, host)
            except ConfigError as error:
                said = str(error)
                named = re.match(rf"file.yaml: {path} (is|gives) {re.escape(repr(value))}", said)
                assert named and "\n" not in said and len(said) > 60, said
                continue
        if entry.kind == "idle":
            assert f"{path} changes nothing" in caplog.text
        elif entry.kind in ("shown", "host"):
            assert entry.kind == "shown" or host
        else:
            assert config != plain, path


@pytest.mark.parametrize(
    ("path", "value", "ours", "expected"),
    [
        ("train.optimizer.weight_decay", 0.03, "fedmllm.train.weight_decay", 0.03),
        ("train.optimizer.eps", "1e-6", "fedmllm.train.eps", 1e-6),
        ("train.optimizer.betas", [0.8, 0.9], "fedmllm.train.beta2", 0.9),
        ("grad.grad_clip", 5, "fedmllm.train.max_grad_norm", 5.0),
        ("federate.ignore_weight", True, "fedmllm.aggregation.client_weights", "uniform"),
        ("train.optimizer.lr", 0.1, "train.optimizer.lr", 0.1),  # FederatedScope's own default, but given
    ],
)
@ENGINES
def test_what_has_a_plain_equivalent_is_honoured(path: str, value, ours: str, expected, host: bool) -> None:
    found = schema.to_mapping(with_key(path, value, host))
    assert dict(host_reading.leaves(found))[ours] == expected


def test_a_batch_size_of_federatedscopes_default_is_used() -> None:
    raw = schema.read_yaml(CROSS)
    del raw["fedmllm"]["train"]
    raw["dataloader"] = {"batch_size": 64}
    assert schema.from_mapping(raw).fedmllm.train.batch_size == 64


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dataloader.batch_size", 64, "both set fedmllm.train.batch_size. Leave one of them out."),
        ("grad.grad_clip", -1.0, "but gradients are always clipped"),
        ("train.optimizer.type", "SGD", "'SGD', which is not one of AdamW."),
        ("train.optimizer.momentum", 0.9, "but a client's optimizer is AdamW"),
        ("train.scheduler.step_size", 3, "Set fedmllm.train.lr_horizon"),
        ("federate.make_global_eval", False, "evaluated on the server"),
        ("nbafl.use", True, "Set fedmllm.privacy.dp.clip_norm"),
        ("aggregator.BFT_args.x", 1, "Set fedmllm.aggregation.rule"),
        ("distribute.use", True, "set federate.mode: distributed"),
        ("expname_tag", "b", "Set expname too"),
    ],
)
@ENGINES
def test_what_is_refused_names_the_remedy_on_every_engine(path: str, value, said: str, host: bool) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        with_key(path, value, host)
    assert path in str(caught.value)


def test_the_place_of_a_server() -> None:
    words = ["federate.mode", "distributed", "distribute.use", "True", "distribute.role", "server"]
    port = schema.load(CROSS, [*words, "distribute.server_port", "50050"], host=True)
    assert port.fedmllm.network.address == "0.0.0.0:50050"  # FederatedScope's default, but given
    assert schema.load(CROSS, words, host=True).fedmllm.network.address == "127.0.0.1:50051"
    with pytest.raises(ConfigError, match="both set fedmllm"):
        schema.load(CROSS, [*words, "distribute.server_port", "1", "fedmllm.network.address", "a:2"], host=True)


def test_a_name_with_a_tag_and_a_method_as_federatedscope_saves_it() -> None:
    config = schema.load(CROSS, ["expname", "a", "expname_tag", "b", "federate.method", "fedmllm_fedavg"])
    assert (config.expname, config.federate.method) == ("a_b", "fedavg")
