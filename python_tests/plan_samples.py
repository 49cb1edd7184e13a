"""Plan files for tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ecgtwin_fast.dataset.plan import Plan, PlanError, read_plan

REFERENCES = "references:\n  simulated: 4\n"
CONDITIONS = "conditions:\n  - report: sinus rhythm\n"
SMALLEST = REFERENCES + CONDITIONS
DRAW = """\
conditions:
  draw:
    count: 8
    statements:
      - {report: sinus rhythm, weight: 3}
      - {report: sinus tachycardia, heart_rate: {uniform: [100, 150]}, sex: reference}
    heart_rate: {normal: [75, 12]}
    age: 60
    sex: {F: 0.5, M: 1}
"""


def plan_of(folder: Path, text: str) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text)
    return read_plan(path)


def errors_of(folder: Path, text: str) -> list[str]:
    """The errors of a plan without the folder of its file, each of which must have a line."""
    with pytest.raises(PlanError) as caught:
        plan_of(folder, text)
    errors = [error.removeprefix(f"{folder}/") for error in caught.value.errors]
    assert all(re.match(r"plan\.yaml:\d+: ", error) for error in errors), errors
    return errors


def the_error(folder: Path, text: str) -> str:
    (error,) = errors_of(folder, text)
    return error


TABLE = "conditions:\n  table: c.csv\n"


def write_csv(folder: Path, text: str) -> None:
    (folder / "c.csv").write_text(text, encoding="utf-8-sig")
