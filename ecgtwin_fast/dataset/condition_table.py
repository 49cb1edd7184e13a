"""Conditions from a table: columns report, heart_rate, age and sex, of which only report must be there."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..data.condition import split_report
from ..errors import ConditionError, ECGTwinError
from .conditions import CHECKS, PATIENT
from .items import Asked

COLUMNS = ("report", *PATIENT)
MOST_DEFECTS = 20
"""That are told of one table."""

Place = str
Row = tuple[Place, dict[str, object]]


class TableError(ECGTwinError):
    """A table of conditions cannot be read."""


def read_table(path: str | Path, defect: Callable[[str], None]) -> tuple[Asked, ...]:
    """The conditions of a .csv (UTF-8, with a header) or .parquet table; an empty cell is the reference's own.

    defect: takes a message for each row that cannot be used; after 20 of them reading stops.
    Raises TableError naming the file where it cannot be read, lacks the column report, has unknown ones, or no rows.
    """
    path = Path(path)
    asked, defects = [], 0
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise TableError(f"{path}: expected a table in .csv or .parquet")
    for place, cells in readers[path.suffix.lower()](path):
        condition, reasons = _asked(cells)
        asked.append(condition)
        for reason in reasons:
            defects += 1
            defect(f"{place}: {reason}")
        if defects >= MOST_DEFECTS:
            defect(f"{path}: the rows below may have errors too: mend these first")
            break
    if not asked:
        raise TableError(f"{path}: holds no row, expected one for each condition")
    return tuple(asked)


def _asked(cells: dict[str, object]) -> tuple[Asked | None, list[str]]:
    """The condition of a row, and what is wrong with it."""
    values: dict[str, object] = {}
    reasons = []
    try:
        values["report"] = "|".join(split_report(_text(cells["report"])))
    except ConditionError as error:
        reasons.append(str(error))
    for name in PATIENT:
        value = cells.get(name)
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            continue
        # Decimals and whatever else Parquet has go the way of CSV.
        value = value if isinstance(value, int | float) else str(value).strip()
        try:
            CHECKS[name](value)
        except ConditionError as error:
            reasons.append(f"{error}, or an empty cell for the reference's own")
        else:
            values[name] = value if name == "sex" else float(value)
    return (None if reasons else Asked(**values)), reasons


def _text(value: object) -> str | None:
    return None if value is None or value != value else str(value)


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_columns(path, names)
            for cells in reader:
                if not cells:
                    continue
                place = f"{path}:{reader.line_num}"
                if len(cells) != len(names):
                    raise TableError(
                        f"{place}: {len(cells)} cells, expected {len(names)}: {', '.join(names)} "
                        "(quote a report that holds a comma)"
                    )
                yield place, dict(zip(names, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not readable as CSV: {_reason(error)}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: not readable as Parquet: {_reason(error)}") from error


def _check_columns(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    if "report" not in names:
        found = ", ".join(names) or "nothing"
        raise TableError(f"{path}: no column 'report' among {found}: name the columns {', '.join(COLUMNS)}")
    for name in names:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TableError(f"{path}: unknown column {name!r}: expected {', '.join(COLUMNS)}{hint}")
        if names.count(name) > 1:
            raise TableError(f"{path}: column {name!r} comes twice")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
