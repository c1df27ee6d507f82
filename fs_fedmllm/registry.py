"""Names and what they stand for, open to other packages.

Another package adds a name by an entry point, which is there in every process and on every engine::

    [project.entry-points."fs_fedmllm.algorithms"]
    fedadabelief = "my_package.fedadabelief:FedAdaBelief"

or, in one process, by :meth:`Registry.register`. An entry point is imported when its name is asked for, never before.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from fs_fedmllm.errors import ConfigError

T = TypeVar("T")


@functools.cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found and point.value not in found[point.name].value.split(" and "):
            found[point.name] = _Twice(point.name, f"{found[point.name].value} and {point.value}", group)
        else:
            found.setdefault(point.name, point)
    return found


class _Twice(EntryPoint):
    """A name that two packages give to different things."""

    def load(self) -> Any:
        raise ConfigError(
            f"{self.name!r} is an entry point of {self.group} in two packages, {self.value}. Uninstall one of "
            "them, or change its name."
        )


class Registry(Mapping[str, T]):
    """What names of one kind stand for: ours, those that were registered, and other packages' entry points.

    Args:
        group: the group of entry points, such as ``fs_fedmllm.algorithms``.
        ours: the names of this package; nobody else can take them, and one that an entry point has too is refused
            where it is asked for.
        taken: further names of this package, which are looked up elsewhere.
        kind: class that values derive from; None for values that are no classes.
    """

    def __init__(self, group: str, ours: Mapping[str, T], taken: Collection[str] = (), kind: type | None = None):
        self.group = group
        self._kind = kind
        self._known: dict[str, Any] = dict(ours)
        self._ours = frozenset((*ours, *taken))

    @property
    def ours(self) -> frozenset[str]:
        """The names of this package."""
        return self._ours

    def register(self, name: str, value: T) -> None:
        """Add a name in this process; again with another value is a change of mind.

        Raises:
            ConfigError: the name is one of this package's.
        """
        if name in self._ours:
            raise ConfigError(f"{name!r} is a name of fs-fedmllm's own in {self.group}; choose another.")
        self._known[name] = value

    def __contains__(self, name: object) -> bool:
        self.refuse_taken(name)
        return name in self._known or name in _entry_points(self.group)

    def __getitem__(self, name: str) -> T:
        self.refuse_taken(name)
        if name not in self._known:
            point = _entry_points(self.group).get(name)
            if point is None:
                raise KeyError(name)
            try:
                loaded = point.load()
            except ConfigError:
                raise
            except (Exception, SystemExit) as error:  # another package's module may do anything
                raise ConfigError(
                    f"{name!r} is an entry point of {self.group}, but {point.value} cannot be imported "
                    f"({type(error).__name__}: {error}). Correct that package, or uninstall it."
                ) from error
            if self._kind is not None and not (isinstance(loaded, type) and issubclass(loaded, self._kind)):
                raise ConfigError(
                    f"{name!r} is an entry point of {self.group}, but {point.value} is no class that derives from "
                    f"{self._kind.__name__} (docs/extending.md). Correct that package, or uninstall it."
                )
            self._known[name] = loaded
        found: T = self._known[name]
        return found

    def refuse_taken(self, name: object) -> None:
        """Nobody shall take what is ours for that of a package that gave it the same name.

        Raises:
            ConfigError: the name is one of this package's, and an entry point's.
        """
        if name in self._ours and (point := _entry_points(self.group).get(str(name))) is not None:
            raise ConfigError(
                f"{name!r} is a name of fs-fedmllm's own in {self.group}, and {point.value} is an entry point of that "
                "name, which is never used. Choose another name there, or uninstall that package."
            )

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._known, *_entry_points(self.group))))

    def __len__(self) -> int:
        return len(list(iter(self)))
