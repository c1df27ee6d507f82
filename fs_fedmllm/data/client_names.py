"""Clients' names where they are shown. They are data, and may hold anything; a client's id stands beside each."""

from __future__ import annotations

from collections.abc import Mapping

from fs_fedmllm.errors import printable

#: Characters of a name that are shown; who needs all of it finds it in the manifest.
SHOWN = 40


def shown_name(name: str, most: int = SHOWN) -> str:
    """A name as one line of bearable length that moves no cursor and turns no text around.

    Args:
        name: as the data has it.
        most: characters.
    """
    line = printable(" ".join(name.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def called(client: int, names: Mapping[int, str]) -> str:
    """``3 (Nord)``, or the id alone where the client has no name."""
    return f"{client} ({shown_name(names[client])})" if names.get(client) else str(client)


def client_by(word: str, names: Mapping[int, str]) -> int | None:
    """The client that a word on the command line means: an id, or else a name; None where it is neither."""
    if word.isascii() and word.isdigit():
        return int(word)
    found = [client for client, name in names.items() if word in (name, shown_name(name))]
    return found[0] if len(found) == 1 else None
