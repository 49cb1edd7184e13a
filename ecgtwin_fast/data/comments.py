"""The condition in the comments of a WFDB header: '# Age: 63', '# <sex>: F', '#Dx: 164889003', and our own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .condition import sex_letter
from .snomed import STATEMENTS

if TYPE_CHECKING:
    from .record import Record

_FIELD = re.compile(r"^\s*<?\s*([A-Za-z][A-Za-z _-]*?)\s*>?\s*:\s*(.*?)\s*$")
# '<age>: 63  <sex>: F' holds two fields.
_NEXT_FIELD = re.compile(r"\s+(?=<[A-Za-z][A-Za-z _-]*>\s*:)")
_NOTHING = {"", "none", "(none)", "n/a", "na", "nan", "unknown"}


def parse_comments(comments: Sequence[str]) -> dict:
    """Age, sex, report and heart rate (fields of Record) from comment lines; what is absent or senseless is left out.

    A report of our own wins over a diagnosis. Known SNOMED codes become statements, unknown ones are dropped.
    """
    values: dict[str, str] = {}
    for line in comments:
        for part in _NEXT_FIELD.split(line):
            match = _FIELD.match(part)
            if match and match[2].lower() not in _NOTHING:
                values[match[1].lower().replace("_", " ")] = match[2]
    found = {
        "age": _number(values.get("age")),
        "sex": sex_letter(values.get("sex", values.get("gender", ""))),
        "heart_rate": _number(values.get("heart rate")),
        "report": values.get("report") or _diagnoses(values),
    }
    return {field: value for field, value in found.items() if value is not None}


def condition_comments(record: Record) -> list[str]:
    """The record's condition as comment lines that parse_comments reads back."""
    lines = {
        "Age": None if record.age is None else f"{record.age:g}",
        "Sex": record.sex,
        "Report": record.report,
        "Heart rate": None if record.heart_rate is None else f"{record.heart_rate:g}",
    }
    return [f"{key}: {value}" for key, value in lines.items() if value is not None]


def _number(text: str | None) -> float | None:
    match = re.match(r"[0-9]+(\.[0-9]+)?", text or "")
    return float(match[0]) if match else None


def _diagnoses(values: dict[str, str]) -> str | None:
    text = next((values[key] for key in ("dx", "diagnosis", "diagnoses") if key in values), "")
    parts = [part.strip() for part in text.split(",")]
    return (
        "|".join(
            STATEMENTS.get(part, part) for part in parts if part in STATEMENTS or part.strip("0123456789")
        )
        or None
    )
