"""CSV files of results: rows are appended, each with the machine's facts."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path


def append_csv(path: Path, columns: Sequence[str], rows: list[dict[str, object]]) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def parse_with_csv(parser: argparse.ArgumentParser, columns: Sequence[str]) -> argparse.Namespace:
    """Parsed arguments, with --csv; an error for a file that holds other columns."""
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append rows with versions, commit and machine")
    given = parser.parse_args()
    try:
        if given.csv:
            _check(given.csv, columns)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return given


def _check(path: Path, columns: Sequence[str]) -> None:
    """Raises ValueError where the file has other columns; an absent or empty one is fine."""
    if path.exists() and path.stat().st_size:
        with path.open(newline="") as file:
            if next(csv.reader(file)) != list(columns):
                raise ValueError(f"{path}: has other columns than this benchmark writes; name another file")
