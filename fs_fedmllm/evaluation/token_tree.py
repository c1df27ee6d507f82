"""Options in words as trees of tokens, so that what they have in common is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fs_fedmllm.models.reading import Branches


@dataclass(frozen=True)
class TokenTree:
    """Some options as one tree. The last token of an option is predicted and not read, so it is no node.

    Attributes:
        members: the options, by their index.
        nodes: ancestors before descendants.
        said: of each option the nodes that predict its tokens behind the first one.
    """

    members: tuple[int, ...]
    nodes: Branches
    said: tuple[tuple[int, ...], ...]


def token_trees(sequences: Sequence[Sequence[int]], most: int) -> Iterator[TokenTree]:
    """All options, in as few trees as hold ``most`` nodes each; an option that alone has more is a tree of its own.

    Args:
        sequences: token ids of every option, none the beginning of another.
        most: nodes of a tree.
    """
    members: list[int] = []
    nodes: dict[tuple[int, ...], int] = {}
    # In this order those that begin alike are neighbours.
    for option in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = tuple(sequences[option])
        paths = [sequence[:length] for length in range(1, len(sequence))]
        if members and len(nodes) + sum(path not in nodes for path in paths) > most:
            yield _tree(members, nodes, sequences)
            members, nodes = [], {}
        members.append(option)
        for path in paths:
            nodes.setdefault(path, len(nodes))
    if members:
        yield _tree(members, nodes, sequences)


def _tree(members: list[int], nodes: dict[tuple[int, ...], int], sequences: Sequence[Sequence[int]]) -> TokenTree:
    return TokenTree(
        members=tuple(members),
        nodes=Branches(
            tokens=tuple(path[-1] for path in nodes),
            parents=tuple(nodes.get(path[:-1], -1) for path in nodes),
            depths=tuple(len(path) - 1 for path in nodes),
        ),
        said=tuple(
            tuple(nodes[tuple(sequences[i][:length])] for length in range(1, len(sequences[i]))) for i in members
        ),
    )
