"""What a configuration field is: its default, meaning, unit, allowed values and range."""

from __future__ import annotations

import functools
import keyword
import math
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeGuard


@dataclass(frozen=True)
class Range:
    """Values that a number may have: an interval, and perhaps one number outside it that means "by default"."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    default: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the number is allowed; infinite ones and NaN never are."""
        if value == self.default:
            return True
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        if math.isinf(self.high):
            text = f"{'above' if self.open_low else 'at least'} {self.low:g}" if self.low > -math.inf else "finite"
        else:
            text = f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:.10g}{')' if self.open_high else ']'}"
        return text if self.default is None else f"{text}, or {self.default:g}"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value that was read is a number, which true and false are not; NaN and infinity are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


#: torch and numpy both take seeds up to this one; FederatedScope seeds numpy's older generator.
MAX_SEED = 2**32 - 1
ANY = Range()
POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
ONE_OR_MORE = Range(1)
SHARE = Range(0, 1)
#: Threads and processes: beyond it the system, not the run, decides what happens.
PARALLEL = Range(0, 1024)
DECAY = Range(0, 1, open_high=True)


def key(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    choices: Collection[str] = (),
    valid: Range = ANY,
    owner: str = "",
    numbers: bool | None = None,
    aside: Collection[str] = (),
) -> Any:
    """A configuration field.

    Args:
        default: its default.
        doc: what it means.
        unit: of the value.
        choices: allowed texts.
        valid: allowed numbers.
        owner: ``run``, ``site`` or ``server``; empty is the section's. See :mod:`fs_fedmllm.config.identity`.
        numbers: whether it can change a run's numbers; None is the section's, and at the top it can.
        aside: entries of a mapping that cannot, such as a title.
    """
    metadata = {"doc": doc, "unit": unit, "choices": choices, "valid": valid}
    metadata |= {"owner": owner, "numbers": numbers, "aside": aside}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(cls: Any, *, owner: str = "", numbers: bool | None = None) -> Any:
    """A section of the configuration; what is said here holds for its keys unless they say otherwise."""
    return field(default_factory=cls, metadata={"owner": owner, "numbers": numbers})


def key_name(field_name: str) -> str:
    """The key that a field stands for: one that is a word of Python's own has an underscore behind it (``async_``)."""
    return field_name.removesuffix("_")


def field_of(name: str) -> str:
    """The field that a key stands in; see :func:`key_name`.

    Args:
        name: last part of a dotted key.
    """
    return f"{name}_" if keyword.iskeyword(name) else name


@functools.cache  # a configuration asks some thirty times, and a sweep has hundreds of them
def key_types(cls: Any) -> Mapping[str, Any]:
    """The keys of a section with their types."""
    return MappingProxyType({key_name(name): kind for name, kind in typing.get_type_hints(cls).items()})


def all_keys(cls: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Every key of a section and of those in it, dotted, with its field and its type."""
    for f in fields(cls):
        name = key_name(f.name)
        kind = key_types(cls)[name]
        if is_dataclass(kind):
            yield from all_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f, kind
