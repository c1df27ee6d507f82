"""From FederatedScope's keys to ours: what a file gives is used, or refused by name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fs_fedmllm.config.host_defaults import DEFAULTS
from fs_fedmllm.config.host_keys import HostKey, host_key
from fs_fedmllm.errors import ConfigError

#: Prefix of the method names that only our workers answer to. A job of ours is renamed when its data is built, so
#: that FederatedScope builds its own workers for its own names and other jobs notice nothing.
METHOD_PREFIX = "fedmllm_"

#: Keys that FederatedScope's own checks fill in from others: written out with that value, they ask for nothing.
_FILLED_IN = {
    "personalization.lr": "train.optimizer.lr",
    "personalization.local_update_steps": "train.local_update_steps",
}
_ABSENT = object()


def leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping; a section that holds nothing gives none."""
    for name, value in raw.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def put(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted key of a nested mapping, whose sections are copied on the way."""
    *parents, last = path.split(".")
    for name in parents:
        child = raw.get(name)
        raw[name] = dict(child) if isinstance(child, Mapping) else {}
        raw = raw[name]
    raw[last] = value


def nested(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Dotted keys and values as a nested mapping."""
    raw: dict[str, Any] = {}
    for path, value in values:
        put(raw, path, value)
    return raw


def value_at(raw: Mapping[str, Any], path: str, absent: Any = None) -> Any:
    """The value of a dotted key of a nested mapping; ``absent`` where there is none."""
    value: Any = raw
    for name in path.split("."):
        value = value.get(name, absent) if isinstance(value, Mapping) else absent
    return value


def _plain(value: Any) -> Any:
    """The value that a text stands for where YAML has none: ``2e-5`` without a dot, a tuple."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return {"true": True, "false": False}.get(value.lower(), value)
    return value


def asks_for_nothing(path: str, value: Any) -> bool:
    """Whether a key of FederatedScope's has FederatedScope's own default."""
    return path in DEFAULTS and _plain(value) == _plain(DEFAULTS[path])


@functools.cache
def _say(line: str) -> None:
    logging.getLogger("fs_fedmllm").warning("%s", line)


def host_values(config: Any) -> list[tuple[str, Any]]:
    """FederatedScope's own keys with what a run does, dotted, for those that a key of ours stands for."""
    local = config.fedmllm.train
    return [
        ("train.optimizer.weight_decay", local.weight_decay),
        ("train.optimizer.eps", local.eps),
        ("train.optimizer.betas", [local.beta1, local.beta2]),
        ("grad.grad_clip", local.max_grad_norm),
        ("dataloader.batch_size", local.batch_size),
        ("criterion.type", "CrossEntropyLoss"),
        *((name, functools.reduce(getattr, source.split("."), config)) for name, source in _FILLED_IN.items()),
    ]


class HostReader:
    """Takes the keys of one configuration that the schema does not have.

    Args:
        raw: the keys of ours, nested; it is added to.
        where: file name for error messages.
        host: whether FederatedScope runs it.
    """

    def __init__(self, raw: dict[str, Any], where: str, host: bool):
        self._raw = raw
        self._where = where
        self._host = host
        self._set: dict[str, tuple[str, Any]] = {}

    def _refuse(self, path: str, value: Any, says: str) -> None:
        # "which ..." and "but ..." go on with the sentence, a remedy alone ("set ...") begins one.
        joined = f", {says}" if says.startswith(("but ", "which ")) else f"; {says}"
        raise ConfigError(f"{self._where}: {path} is {value!r}{joined}")

    def _ours(self, path: str) -> Any:
        return value_at(self._raw, path, _ABSENT)

    def _sets(self, path: str, value: Any, to: str) -> None:
        """Let a key set one of ours; two that set the same thing must agree."""
        other, given = self._set.get(to, (to, self._ours(to)))
        if given is not _ABSENT and _plain(given) != _plain(value):
            raise ConfigError(
                f"{self._where}: {path} gives {value!r} and {other} {given!r}, and both set {to}. Leave one of them "
                "out."
            )
        self._set[to] = (path, value)
        put(self._raw, to, value)

    def take(self, foreign: Mapping[str, Any]) -> None:
        """Use the keys, or refuse them.

        Args:
            foreign: dotted key -> value; FederatedScope has all of them.

        Raises:
            ConfigError: a key asks for what our runs do not have; it says what to use instead.
        """
        for path, value in foreign.items():
            found = host_key(path)
            assert found is not None
            if found.kind == "same":
                self._sets(path, value, found.to)
            elif found.kind == "special":
                self._special(path, value, found)
            elif asks_for_nothing(path, value):
                continue
            elif found.kind == "idle":
                _say(f"{self._where}: {path} changes nothing: {found.says}.")
            elif found.kind == "refused" or (found.kind == "host" and not self._host):
                self._refuse(path, value, found.says)
        self._address(foreign)

    def _special(self, path: str, value: Any, found: HostKey) -> None:
        plain = _plain(value)
        if path.startswith("distribute."):
            if self._ours("federate.mode") != "distributed" and not asks_for_nothing(path, value):
                self._refuse(path, value, found.says)
        elif path == "grad.grad_clip":
            if not isinstance(plain, int | float) or plain <= 0:
                self._refuse(
                    path, value, "but gradients are always clipped. Leave it out for fedmllm.train.max_grad_norm's "
                    "default, or set that to a norm that no gradient reaches, such as 1.0e+30."
                )  # fmt: skip
            self._sets(path, value, "fedmllm.train.max_grad_norm")
        elif path == "train.optimizer.betas":
            if not isinstance(plain, list) or len(plain) != 2:
                self._refuse(path, value, "but AdamW has two betas, for example [0.9, 0.95].")
            for name, beta in zip(("beta1", "beta2"), plain, strict=True):
                self._sets(path, beta, f"fedmllm.train.{name}")
        elif path == "federate.ignore_weight":
            if plain is True:
                self._sets(path, "uniform", "fedmllm.aggregation.client_weights")
            elif plain is not False:
                self._refuse(path, value, "but it must be True or False.")
        elif path == "federate.process_num":
            if plain not in (0, 1):  # FederatedScope's own check makes 0 of 1 where there is no accelerator
                self._refuse(
                    path, value, "but client updates are spread over processes by fedmllm.workers. Set that instead."
                )
        elif path == "criterion.type":
            if value != "CrossEntropyLoss":
                self._refuse(path, value, "but the loss is the answer's cross-entropy. Remove it, or write "
                             "CrossEntropyLoss.")  # fmt: skip
        elif path == "expname_tag":
            name = self._ours("expname")
            if value and name in (_ABSENT, None, ""):
                self._refuse(path, value, "which is added to expname. Set expname too.")
            if value:
                put(self._raw, "expname", f"{name}_{value}")
        elif path == "data.batch_size":
            if not asks_for_nothing(path, value):  # FederatedScope too takes this old name's default for absent
                self._sets(path, value, "fedmllm.train.batch_size")
        elif not asks_for_nothing(path, value) and _plain(self._ours(_FILLED_IN[path])) != plain:
            self._refuse(path, value, "but clients keep no parameters of their own in a federated run. Remove it.")

    def _address(self, foreign: Mapping[str, Any]) -> None:
        names = ("distribute.server_host", "distribute.server_port")
        given = [name for name in names if name in foreign]
        if given and self._ours("federate.mode") == "distributed":
            host, port = (foreign.get(name, DEFAULTS[name]) for name in names)
            self._sets(" and ".join(given), f"{host}:{port}", "fedmllm.network.address")
