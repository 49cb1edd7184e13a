"""PTB-XL in its own layout: records by ecg_id, with patient, fold, age, sex and English report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import RecordError
from .ptbxl_table import Row, find_root, read_rows
from .record import Record, read_record

DEFAULT_ROOT = "../shared/ecg/ptb-xl"


def ptbxl_root() -> Path | None:
    """The PTB-XL folder: $ECGTWIN_PTBXL, else ../shared/ecg/ptb-xl; None where that holds no database."""
    root = Path(os.environ.get("ECGTWIN_PTBXL") or DEFAULT_ROOT)
    return root if find_root(root) == root.resolve() else None


class PTBXL:
    """PTB-XL under `root` (or a path inside it). Rows are read at once, signals one by one on request."""

    def __init__(self, root: str | Path) -> None:
        found = find_root(Path(root))
        if found is None:
            raise RecordError(f"{root}: no ptbxl_database.csv here or in a folder above")
        self.root = found
        self.rows: dict[int, Row] = read_rows(found)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, ecg_id: int) -> Row:
        """The database row of an ecg_id; RecordError where there is none."""
        if ecg_id not in self.rows:
            raise RecordError(f"{self.root}: no ecg_id {ecg_id} in its database of {len(self.rows)} records")
        return self.rows[ecg_id]

    def path(self, ecg_id: int, rate: int = 500) -> Path:
        """The record's path without extension at 500 or 100 Hz."""
        row = self.row(ecg_id)
        if rate not in (100, 500):
            raise RecordError(f"{self.root}: PTB-XL has 100 Hz and 500 Hz, not {rate} Hz")
        return self.root / (row.filename_hr if rate == 500 else row.filename_lr)

    def record(self, ecg_id: int, rate: int = 500) -> Record:
        """The record of an ecg_id: (5000, 12) at 500 Hz or (1000, 12) at 100 Hz, in mV."""
        return read_record(self.path(ecg_id, rate))

    def records(self, rate: int = 500) -> Iterator[tuple[Row, Record]]:
        """Every row with its record, in order of the database, read when asked for."""
        for ecg_id, row in self.rows.items():
            yield row, self.record(ecg_id, rate)

    def patients(self) -> dict[int, list[int]]:
        """The ecg_ids of each patient_id, in order of the database."""
        grouped: dict[int, list[int]] = {}
        for ecg_id, row in self.rows.items():
            grouped.setdefault(row.patient_id, []).append(ecg_id)
        return grouped
