"""PTB-XL's tables: each record's age, sex and report (Wagner et al., Scientific Data 2020)."""

from __future__ import annotations

import ast
import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import RecordError
from .wfdb_files import record_stem

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
OVER_89 = 90.0
"""Age of those whom PTB-XL codes as 300, 'over 89'."""

_SEX = {0: "M", 1: "F"}


@dataclass(frozen=True)
class Row:
    """One record of the database. filename_lr (100 Hz) and filename_hr (500 Hz) are relative to the root.

    recording_date: 'YYYY-MM-DD HH:MM:SS', shifted by a random offset per patient; None where the table has none.
    """

    ecg_id: int
    patient_id: int
    age: float | None
    sex: str | None
    report: str | None
    strat_fold: int
    filename_lr: str
    filename_hr: str
    recording_date: str | None


@lru_cache(maxsize=4)
def read_rows(root: Path) -> dict[int, Row]:
    """All rows by ecg_id. Reports are the English descriptions of the SCP codes, likeliest first.

    A likelihood of 0 means unknown there, so such codes stay, last; codes without a description are left out.
    """
    statements = {line[""]: line["description"] for line in _lines(root / STATEMENTS)}
    return {int(line["ecg_id"]): _row(root, line, statements) for line in _lines(root / DATABASE)}


def find_root(path: Path) -> Path | None:
    """The nearest folder at or above `path` that holds ptbxl_database.csv, or None."""
    path = path.resolve()
    return next((folder for folder in (path, *path.parents) if (folder / DATABASE).is_file()), None)


def fields_of(path: Path) -> dict:
    """Age, sex, report and source, as far as known, of a record inside a PTB-XL folder; {} for any other file."""
    root = find_root(path.parent)
    if root is None:
        return {}
    stem = path.parent.resolve() / record_stem(path).name
    row = _by_file(root).get(stem.relative_to(root).as_posix())
    return row_fields(row) if row else {}


def row_fields(row: Row) -> dict:
    """A row's fields of a Record."""
    known = {"age": row.age, "sex": row.sex, "report": row.report, "source": f"PTB-XL ecg_id {row.ecg_id}"}
    return {field: value for field, value in known.items() if value is not None}


@lru_cache(maxsize=4)
def _by_file(root: Path) -> dict[str, Row]:
    return {name: row for row in read_rows(root).values() for name in (row.filename_lr, row.filename_hr)}


def _lines(path: Path):
    try:
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise RecordError(f"{path}: PTB-XL table not readable: {error.strerror}") from error


def _row(root: Path, line: dict[str, str], statements: dict[str, str]) -> Row:
    try:
        age = float(line["age"]) if line["age"] else None
        return Row(
            ecg_id=int(line["ecg_id"]),
            patient_id=int(float(line["patient_id"])),
            age=OVER_89 if age is not None and age > 89 else age,
            sex=_SEX.get(int(float(line["sex"]))) if line["sex"] else None,
            report=_report(line["scp_codes"], statements),
            strat_fold=int(line["strat_fold"]),
            filename_lr=line["filename_lr"],
            filename_hr=line["filename_hr"],
            recording_date=line.get("recording_date") or None,
        )
    except (KeyError, ValueError, SyntaxError) as error:
        raise RecordError(f"{root / DATABASE}: ecg_id {line.get('ecg_id')}: {error!r}") from error


def _report(scp_codes: str, statements: dict[str, str]) -> str | None:
    likelihoods = ast.literal_eval(scp_codes)
    ordered = sorted(likelihoods, key=lambda code: -likelihoods[code])
    return "|".join(statements[code] for code in ordered if code in statements) or None
