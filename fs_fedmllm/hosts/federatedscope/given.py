"""What a file and a command line gave FederatedScope, told apart from its defaults.

FederatedScope merges everything into one tree of defaults, where a value that was written down and one that was not
look alike, and its checks then fill in some keys from others. So the merges of its configuration class are watched
from outside: each notes on its node what it was asked to merge, and then does what it always did.
"""

from __future__ import annotations

import functools
from ast import literal_eval
from collections.abc import Iterator, Mapping
from typing import Any

#: A key as the names on the way to it.
Path = tuple[str, ...]

#: The attribute of a configuration node that holds key -> value as given. No item of the node, so that neither
#: FederatedScope's merges nor its printed configuration see it.
_NOTED = "_fedmllm_given"

#: What FederatedScope keeps in every node beside its keys.
_BOOKKEEPING = ("__cfg_check_funcs__", "__help_info__", "is_ready_for_run")

#: Keys that FederatedScope itself sets after the merges: a value there that nobody gave means nothing.
_SET_BY_HOST = (
    *("outdir", "expname", "cfg_file"),
    *(f"federate.{name}" for name in ("sample_client_num", "make_global_eval", "unseen_clients_rate", "process_num")),
    *("personalization.lr", "personalization.local_update_steps", "asyn.min_received_num", "hpo.larger_better"),
    *(f"dataloader.{name}" for name in ("type", "batch_size", "shuffle", "num_workers", "drop_last")),
    *(f"dataloader.{name}" for name in ("walk_length", "num_steps", "sizes")),
)


def watch_merges() -> None:
    """Let FederatedScope's configuration class note what it merges; idempotent."""
    from federatedscope.core.configs.config import CN

    if getattr(CN.merge_from_list, "noting", False):
        return
    merge_node, merge_list, merge_file = CN.merge_from_other_cfg, CN.merge_from_list, CN.merge_from_file

    @functools.wraps(merge_node)
    def from_node(self: Any, cfg_other: Any, *args: Any, **kwargs: Any) -> Any:
        if _NOTED in vars(cfg_other):  # a whole configuration brings its own notes
            _noted(self).update(_noted(cfg_other))
        else:  # a text is read as Python where it is one, as the merge itself does
            _words(cfg_other, self)
            _noted(self).update({path: _plain(self._decode_cfg_value(item)) for path, item in _leaves(cfg_other)})
        return merge_node(self, cfg_other, *args, **kwargs)

    @functools.wraps(merge_list)
    def from_list(self: Any, cfg_list: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in zip(cfg_list[::2], cfg_list[1::2], strict=False):
            _noted(self)[tuple(name.split("."))] = _plain(self._decode_cfg_value(value))
        return merge_list(self, cfg_list, *args, **kwargs)

    @functools.wraps(merge_file)
    def from_file(self: Any, cfg_filename: Any, *args: Any, **kwargs: Any) -> Any:
        _noted(self)[("cfg_file",)] = str(cfg_filename)
        return merge_file(self, cfg_filename, *args, **kwargs)

    from_list.noting = True  # type: ignore[attr-defined]
    CN.merge_from_other_cfg, CN.merge_from_list, CN.merge_from_file = from_node, from_list, from_file


def _words(new: Any, known: Any) -> None:
    """The bare word off, which YAML reads as False, where the tree has a text; the merge would refuse it."""
    for name, value in new.items():
        if isinstance(value, Mapping) and isinstance(known.get(name), Mapping):
            _words(value, known[name])
        elif value is False and isinstance(known.get(name), str):
            new[name] = "off"


def _noted(cfg: Any) -> dict[Path, Any]:
    found: dict[Path, Any] = vars(cfg).setdefault(_NOTED, {})
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items() if name not in _BOOKKEEPING}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # FederatedScope's Argument: a value with its description.
    return value.value if type(value).__name__ == "Argument" else value


def _leaves(node: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in node.items():
        if name in _BOOKKEEPING:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), _plain(value)


def was_given(cfg: Any, key: str) -> bool:
    """Whether a file or a command line named the dotted key, or one below it."""
    names = tuple(key.split("."))
    return any(path[: len(names)] == names for path in _noted(cfg))


def given(cfg: Any) -> dict[str, Any]:
    """What was given to a configuration, nested, as a file gives it.

    A program may also set keys of the tree by itself: there, what differs from the default was given.
    """
    from federatedscope.core.configs.config import CN, init_global_cfg

    fresh = CN()
    init_global_cfg(fresh)
    defaults, noted = dict(_leaves(fresh)), dict(_noted(cfg))
    for path, value in _leaves(cfg):
        if ".".join(map(str, path)) not in _SET_BY_HOST and value != noted.get(path, defaults.get(path)):
            noted[path] = value
    raw: dict[str, Any] = {}
    for path, value in noted.items():
        node = raw
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return raw


def as_read(value: Any) -> Any:
    """A value that a merge reads as what it is: it takes a text for Python where that can be parsed (a name 2024)."""
    if isinstance(value, Mapping):
        return {name: as_read(item) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    try:
        literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return repr(value)


def keep_texts(cfg: Any) -> None:
    """Let the texts of a tree, which FederatedScope merges once more, be read as what they are."""
    for name, value in cfg.items():
        if name in _BOOKKEEPING:
            continue
        if isinstance(value, Mapping):
            keep_texts(value)
        else:
            cfg[name] = as_read(value)
