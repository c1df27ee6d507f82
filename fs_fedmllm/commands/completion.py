"""What a shell offers at the tab key, through argcomplete: commands, options, configurations, keys and their values.

``eval "$(register-python-argcomplete fs-fedmllm)"`` in a shell's start file switches it on. Nothing heavy is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from fs_fedmllm.extras import is_installed
from fs_fedmllm.shipped import shipped_names

#: Arguments that name a file which ships with the package: name of the argument -> its folder.
_SHIPPED = {"config": "configs", "file": "configs", "table": "tables"}


def complete(parser: argparse.ArgumentParser, commands: Iterable[argparse.ArgumentParser]) -> None:
    """Answer a shell and end this process; nothing where argcomplete is not installed.

    Args:
        parser: the command line's.
        commands: the parsers of its commands and their verbs, which have the arguments.
    """
    if not is_installed("argcomplete"):
        return
    import argcomplete

    # argparse names its actions with an underscore and offers no other way to them.
    for action in (action for command in commands for action in command._actions):
        if action.dest == "overrides":
            action.completer = keys  # type: ignore[attr-defined]
        elif action.dest in _SHIPPED and not action.option_strings:
            action.completer = _files(_SHIPPED[action.dest])  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def keys(prefix: str, **_: Any) -> list[str]:
    """Overrides that begin so: ``key=``, and after the sign the values that the key may have."""
    from fs_fedmllm.config import known_keys
    from fs_fedmllm.config.reference import choices_of

    name, sign, _rest = prefix.partition("=")
    if sign:
        return [f"{name}={value}" for value in choices_of(name)]
    return [f"{key}=" for key in known_keys() if key.startswith(prefix)]


def _files(folder: str) -> Any:
    from argcomplete.completers import FilesCompleter

    local = FilesCompleter(("yaml", "yml"))

    def offered(prefix: str, **more: Any) -> list[str]:
        return [*local(prefix, **more), *(name for name in shipped_names(folder) if name.startswith(prefix))]

    return offered
