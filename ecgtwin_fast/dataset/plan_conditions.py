"""The section `conditions` of a plan file: a list, a table, or a draw."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..data.condition import split_report
from ..errors import ConditionError, ECGTwinError
from .condition_table import read_table
from .conditions import CHECKS, LIMITS, PATIENT, REFERENCE, Draw, Normal, Statement, Uniform, Value, Weighted
from .items import Asked
from .yaml_tree import Checks, Node

_CONDITION = ("report", *PATIENT)
_STATEMENT = ("report", "weight", *PATIENT)
_DRAW = ("count", "statements", *PATIENT)


def read_conditions(node: Node | None, folder: Path, checks: Checks) -> tuple[Asked, ...] | Draw | None:
    """The conditions listed, in the table, or how they are drawn; where they have errors, no more than a stand-in.

    folder: of the plan file, to which the table's path is relative.
    """
    if node is None:
        return None
    if not isinstance(node.value, dict):
        return tuple(_listed(entry, checks) for entry in checks.entries(node))
    fields = checks.fields(node, ("table", "draw"))
    if len(fields) != 1:
        if len(fields) == len(node.value):
            found = " and ".join(fields) or "no field"
            checks.fail(node.line, f"{node} has {found}, expected either table or draw, or a list")
        return None
    return _draw(fields["draw"], checks) if "draw" in fields else _table(fields["table"], folder, checks)


def _listed(node: Node, checks: Checks) -> Asked:
    fields = checks.fields(node, _CONDITION, required=("report",))
    return Asked(_report(fields.get("report"), checks), **_values(fields, checks, drawn=False))


def _table(node: Node, folder: Path, checks: Checks) -> tuple[Asked, ...] | None:
    given = checks.text(node)
    if given is None:
        return None
    try:
        return read_table(os.path.abspath(folder / given), lambda message: checks.fail(node.line, f"{node}: {message}"))
    except ECGTwinError as error:
        checks.fail(node.line, f"{node}: {error} (paths are relative to the plan file)")
        return None


def _draw(node: Node, checks: Checks) -> Draw | None:
    fields = checks.fields(node, _DRAW, required=("count", "statements"))
    statements = tuple(_statement(entry, checks) for entry in checks.entries(fields.get("statements")))
    count = checks.whole(fields.get("count"), 1, 2**63 - 1, otherwise=1)
    return Draw(count, statements, _values(fields, checks, drawn=True))


def _statement(node: Node, checks: Checks) -> Statement:
    fields = checks.fields(node, _STATEMENT, required=("report",))
    weight = _weight(fields.get("weight"), checks)
    return Statement(_report(fields.get("report"), checks), weight, _values(fields, checks, drawn=True))


def _report(node: Node | None, checks: Checks) -> str:
    if node is None or not isinstance(node.value, str):
        return checks.text(node, "")
    try:
        return "|".join(split_report(node.value))
    except ConditionError as error:
        checks.fail(node.line, f"{node}: {error}")
        return ""


def _values(fields: Mapping[str, Node], checks: Checks, drawn: bool) -> dict[str, Value]:
    return {name: _value(name, fields[name], checks, drawn) for name in PATIENT if name in fields}


def _value(name: str, node: Node, checks: Checks, drawn: bool) -> Value:
    """A heart rate, age or sex, or where it may be drawn, its distribution."""
    if node.value == REFERENCE:
        return None
    if isinstance(node.value, dict) and drawn:
        return _weights(node, checks) if name == "sex" else _distribution(name, node, checks)
    if name == "sex":
        return _checked(name, node, node.value, checks)
    ways = f", {{uniform: [low, high]}}, {{normal: [mean, deviation]}} or {REFERENCE}" if drawn else f" or {REFERENCE}"
    number = checks.number(node, f"a number{ways}")
    return None if number is None else _checked(name, node, number, checks)


def _checked(name: str, node: Node, value: float | str, checks: Checks) -> float | str | None:
    try:
        CHECKS[name](value if not isinstance(value, dict | list) else node.shown)
    except ConditionError as error:
        checks.fail(node.line, f"{node}: {error}{f' or {REFERENCE}' if name == 'sex' else ''}")
        return None
    return value


def _distribution(name: str, node: Node, checks: Checks) -> Uniform | Normal | None:
    fields = checks.fields(node, ("uniform", "normal"))
    if len(fields) != 1:
        if len(fields) == len(node.value):
            checks.fail(node.line, f"{node}: expected either uniform: [low, high] or normal: [mean, deviation]")
        return None
    ((kind, pair),) = fields.items()
    if not isinstance(pair.value, list) or len(pair.value) != 2:
        meaning = "[low, high]" if kind == "uniform" else "[mean, deviation]"
        checks.fail(pair.line, f"{pair} is {pair.shown}, expected two numbers, {meaning}")
        return None
    before = checks.count
    first, second = (checks.number(entry) for entry in pair.value)
    if first is not None:
        _checked(name, pair.value[0], first, checks)
    if kind == "normal" and second is not None and second <= 0:
        checks.fail(pair.value[1].line, f"{pair}: the deviation is {second:g}, expected more than 0")
    if kind == "uniform" and second is not None:
        _checked(name, pair.value[1], second, checks)
        if first is not None and first >= second:
            checks.fail(pair.line, f"{pair} is [{first:g}, {second:g}], expected low below high")
    if checks.count > before:
        return None
    return Uniform(first, second) if kind == "uniform" else Normal(first, second, LIMITS[name])


def _weights(node: Node, checks: Checks) -> Weighted | None:
    before = checks.count
    fields = checks.fields(node, ("F", "M"))
    weights = tuple(_weight(child, checks) for child in fields.values())
    if not fields and checks.count == before:
        checks.fail(node.line, f"{node} is an empty mapping, expected weights such as {{F: 0.5, M: 0.5}}")
    return Weighted(tuple(fields), weights) if fields else None


def _weight(node: Node | None, checks: Checks) -> float:
    weight = checks.number(node, "a number above 0 (leave out what shall not be drawn)", above=0.0)
    return 1.0 if weight is None else weight
