"""YAML whose every value knows its line, and checks of it that collect all errors instead of stopping at the first."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import ECGTwinError

_TEXT = "tag:yaml.org,2002:str"
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


class PlanError(ECGTwinError):
    """A plan cannot be used. The message has one line for each error, sorted by line: 'FILE:LINE: what and the fix'."""

    @property
    def errors(self) -> list[str]:
        return str(self).splitlines()


@dataclass(frozen=True)
class Node:
    """A value of the file: a scalar, a list of nodes, or a dict of nodes by name.

    path: such as 'conditions[2].report', '' for the root. line: of a field its key's, of an entry of a list its own,
    from 1.
    """

    value: Any
    path: str
    line: int

    def __str__(self) -> str:
        return self.path or "the plan"

    @property
    def shown(self) -> str:
        """The value as an error names it."""
        if self.value is None:
            return "empty"
        kinds = {dict: "a mapping", list: "a list"}
        return kinds.get(type(self.value)) or _SHORT.repr(self.value)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        below = self.value.values() if isinstance(self.value, dict) else self.value
        for child in below if isinstance(self.value, dict | list) else ():
            yield from child.walk()


class Checks:
    """Reads values out of nodes. What does not fit is noted, and a stand-in is given, so that reading goes on.

    Where a node is None, its field was not given, and the stand-in is no error.
    """

    def __init__(self, file: str):
        self._file = file
        self._errors: list[tuple[int, str]] = []

    def fail(self, line: int, message: str) -> None:
        self._errors.append((line, " ".join(message.split())))

    @property
    def count(self) -> int:
        """Of the errors so far."""
        return len(self._errors)

    def raise_errors(self) -> None:
        """PlanError where any were noted."""
        if self._errors:
            ordered = sorted(self._errors, key=lambda error: error[0])
            raise PlanError("\n".join(f"{self._file}:{line}: {message}" for line, message in ordered))

    def parse(self, text: str) -> Node:
        """The tree of a YAML text. Raises PlanError where it is not YAML or holds nothing; notes doubled keys."""
        loader = None
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            if root is not None:
                return self._node(loader, root, "", root.start_mark.line + 1)
            self.fail(1, "the plan is empty: give references and conditions")
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.fail(line, f"not YAML: character {chr(error.character)!r} is not allowed")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            reason = ", ".join(filter(None, (error.context, error.problem)))
            line = mark.line + 1 if mark else 1
            self.fail(line, f"not YAML: {reason}: check indentation (spaces), quotes and colons")
        except RecursionError:
            self.fail(1, "not a plan: its values are nested without end")
        finally:
            if loader is not None:
                loader.dispose()
        self.raise_errors()
        raise AssertionError("an error was noted")

    def fields(self, node: Node | None, known: Sequence[str], required: Sequence[str] = ()) -> dict[str, Node]:
        """The known fields of a mapping; notes unknown and missing ones."""
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.fail(node.line, f"{node} is {node.shown}, expected a mapping with the fields {', '.join(known)}")
            return {}
        unknown = {name: child for name, child in node.value.items() if name not in known}
        for name, child in unknown.items():
            hint = _suggestion(name, known)
            self.fail(child.line, f"unknown field {name!r} in {node}: expected {', '.join(known)}{hint}")
        for name in required:
            # One misspelt has been told of.
            if name not in node.value and not difflib.get_close_matches(name, unknown, n=1):
                self.fail(node.line, f"{node} has no field {name!r}: add it")
        return {name: child for name, child in node.value.items() if name in known}

    def entries(self, node: Node | None) -> list[Node]:
        """The entries of a list, of which there must be one."""
        if node is None:
            return []
        if not isinstance(node.value, list) or not node.value:
            shown = node.shown if not isinstance(node.value, list) else "an empty list"
            self.fail(node.line, f"{node} is {shown}, expected a list with at least one entry ('- ...')")
            return []
        return node.value

    def whole(self, node: Node | None, low: int, high: int | None = None, otherwise: Any = None) -> Any:
        """A whole number in low..high."""
        limits = f"of at least {low}" if high is None else f"in {low}..{high}"

        def fits(value: Any) -> bool:
            return type(value) is int and low <= value and (high is None or value <= high)

        return self._fitting(node, fits, f"a whole number {limits}", otherwise)

    def number(self, node: Node | None, expected: str = "a number", above: float = -math.inf) -> float | None:
        """A finite number above a limit."""

        def fits(value: Any) -> bool:
            return type(value) in (int, float) and abs(value) <= 1e300 and value > above

        value = self._fitting(node, fits, expected, None)
        return None if value is None else float(value)

    def text(self, node: Node | None, otherwise: Any = None) -> Any:
        """A text that is not blank, without space around it."""

        def fits(value: Any) -> bool:
            return isinstance(value, str) and bool(value.strip()) and "\0" not in value

        value = self._fitting(node, fits, "a text", otherwise)
        return value.strip() if isinstance(value, str) else value

    def choice(self, node: Node | None, choices: Iterable[str], otherwise: str) -> str:
        """One of several words."""
        choices = tuple(choices)
        hint = _suggestion(node.value, choices) if node is not None else ""
        return self._fitting(node, choices.__contains__, f"{_either(choices)}{hint}", otherwise)

    def _fitting(self, node: Node | None, fits: Callable[[Any], bool], expected: str, otherwise: Any) -> Any:
        if node is None:
            return otherwise
        if isinstance(node.value, dict | list) or not fits(node.value):
            hint = ""
            if node.value is None:
                hint = ", or leave the field out"
            elif isinstance(node.value, str) and _is_number(node.value) and "number" in expected:
                hint = ": without quotes, and before an exponent with a point and a sign, as in 1.0e+3"
            elif isinstance(node.value, bool | int | float) and expected == "a text":
                hint = ": put it in quotes"
            self.fail(node.line, f"{node} is {node.shown}, expected {expected}{hint}")
            return otherwise
        return node.value

    def _node(self, loader: yaml.SafeLoader, node: yaml.Node, path: str, line: int) -> Node:
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(loader, node, path), path, line)
        if isinstance(node, yaml.SequenceNode):
            entries = [
                self._node(loader, child, f"{path}[{number}]", child.start_mark.line + 1)
                for number, child in enumerate(node.value)
            ]
            return Node(entries, path, line)
        try:
            return Node(loader.construct_object(node), path, line)
        except ValueError as error:  # such as a date that does not exist
            self.fail(node.start_mark.line + 1, f"{path or 'the plan'}: {node.value!r}: {error}: put it in quotes")
            return Node(node.value, path, line)

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, path: str) -> dict[str, Node]:
        fields: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            owner, key = path or "the plan", key_node.value
            if key_node.tag != _TEXT:
                name = repr(key) if isinstance(key, str) else "that is no scalar"
                self.fail(line, f"a field of {owner} has a name {name}, which YAML takes for no text: quote it")
            elif key in fields:
                first = fields[key].line
                self.fail(line, f"field {key!r} of {owner} comes twice (first in line {first}): remove one")
            else:
                fields[key] = self._node(loader, value_node, f"{path}.{key}" if path else key, line)
        return fields


def _suggestion(word: Any, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
