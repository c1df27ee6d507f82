"""YAML that may come from anybody: PyYAML's safe loader within bounds; every fault is a ``YAMLError`` with a line.

A kilobyte of aliases can stand for a billion nodes, a number for minutes of arithmetic, and the safe loader lets
Python's own errors out where a tag does not fit its value. A key that stands twice in one mapping is an error too:
PyYAML would drop the first without a word. So are ``010``, ``1:30`` and ``2024_05``, which YAML 1.1 reads
as 8, 90 and 202405.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

#: Nodes of a document, where an alias counts as all that it stands for.
MAX_NODES = 50_000
#: Levels of nesting.
MAX_DEPTH = 64
#: Characters of a number.
MAX_NUMBER = 100

_MERGE = "tag:yaml.org,2002:merge"
#: Numbers as people write them; others have leading zeros (base 8), colons (base 60), underscores or letters.
_PLAIN = re.compile(r"[-+]?(0|[1-9][0-9]*)|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I)
#: What the parser says of frequent faults, how it begins, and what to do.
_REMEDIES = {
    r"found character '\t'": "Indent with blanks, not with tabs.",
    "but found another document": "A file holds one: take out the line --- and what follows it.",
    "found unhashable key": "A key is a text.",
    "could not determine a constructor for the tag": "Take the tag, which begins with !, out.",
    "mapping values are not allowed here": "Put a text that holds a colon into quotes.",
    "could not find expected ':'": "Write key: value, and texts of several lines into quotes.",
    "found undefined alias": "Put a text that begins with * into quotes.",
}


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        alias = self.check_event(yaml.AliasEvent)
        before = self._nodes
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"more than {MAX_DEPTH} levels of nesting", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias:
            if id(node) not in self._sizes:  # not complete yet
                raise ComposerError(None, None, "an alias inside of what it stands for", mark)
            self._nodes = before + self._sizes[id(node)]
        else:
            self._sizes[id(node)] = self._nodes - before
        if self._nodes > MAX_NODES:
            raise ComposerError(None, None, f"more than {MAX_NODES:,} values, counting what aliases stand for", mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):  # !!int of what is no number
            kind = str(node.tag).rpartition(":")[2]
            raise ConstructorError(None, None, f"this cannot be read as {kind}", node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            self._refuse_repeats(node)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found

    def _refuse_repeats(self, node: Any) -> None:
        """Before merge keys are resolved: what is merged may be overridden."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add((key.tag, key.value))


def _number(construct: Any) -> Any:
    def bounded(loader: _Loader, node: Any) -> Any:
        value = loader.construct_scalar(node)
        if len(str(value)) > MAX_NUMBER:
            problem = f"a number of {len(str(value)):,} characters"
            raise ConstructorError(None, None, problem, node.start_mark)
        read = construct(loader, node)
        if not _PLAIN.fullmatch(str(value)):
            problem = f"{value} would be read as {read}. Write {read}, or put a text into quotes"
            raise ConstructorError(None, None, problem, node.start_mark)
        return read

    return bounded


_Loader.add_constructor("tag:yaml.org,2002:int", _number(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(yaml.SafeLoader.construct_yaml_float))


def parse_yaml(text: str) -> Any:
    """The one document of a text.

    Raises:
        yaml.YAMLError: it is no YAML, several documents, or not within the bounds above.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        except RecursionError:
            raise ComposerError(None, None, "nested too deeply", None) from None
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # "\UFFFFFFFF"
            raise ComposerError(None, None, f"this cannot be read ({error})", loader.get_mark()) from None
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:  # it has a position where the others have a mark
        mark = yaml.Mark("", error.position, text.count("\n", 0, error.position), 0, text[:0], 0)
        raise ComposerError(None, None, "a character that may not stand in YAML", mark) from None


def yaml_fault(error: yaml.YAMLError) -> str:
    """Where, what and, of frequent faults, what to do, for an error's message: `` at line 3: found ...``."""
    mark = getattr(error, "problem_mark", None)
    line = f" at line {mark.line + 1}" if mark is not None else ""
    problem = str(getattr(error, "problem", None) or error)
    remedy = next((f". {remedy[:-1]}" for said, remedy in _REMEDIES.items() if problem.startswith(said)), "")
    return f"{line}: {problem.removeprefix('but ')}{remedy}"
