"""MIMIC-IV-ECG in its own layout: record list, machine measurements, and MIMIC-IV's table of patients.

The tables are kept as columns, the statements of the machine by number: some 300 bytes a record.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ..errors import RecordError
from .condition import HEART_RATE_RANGE, sex_letter
from .sources import TableRecord, in_test_fold, parse_time

RECORD_LIST = "record_list.csv"
MEASUREMENTS = "machine_measurements.csv"
PATIENTS = ("hosp/patients.csv", "patients.csv", "hosp/patients.csv.gz", "patients.csv.gz")
REPORTS = tuple(f"report_{number}" for number in range(18))


class MIMICSource:
    """MIMIC-IV-ECG 1.0 under `root`, in the order of its record list.

    Age at the ECG: its year - anchor_year + anchor_age. The report is report_0 .. report_17 without the empty ones.

    The heart rate is 60000 / rr_interval, which is in milliseconds; where that is not in 20..300 bpm (the machine
    writes 0, 29999 or 65535 for a missing interval), XQRS finds it in the signal. The published preparation divides
    rr_interval by 1000 and then compares the quotient with limits in milliseconds; that error is not repeated here.

    Args:
        patients: MIMIC-IV's patients.csv, or None to look for hosp/patients.csv and patients.csv under `root`.
        without_patients: age and sex may stay unknown where there is no such table.

    Raises:
        RecordError: a table is missing or not readable, or lacks a column.
    """

    def __init__(self, root: str | Path, patients: Path | None, test_share: float, without_patients: bool = False):
        self._root, self._test_share = Path(root), test_share
        self._records = _table(self._root / RECORD_LIST, ["subject_id", "study_id", "ecg_time", "path"])
        measurements = _table(self._root / MEASUREMENTS, ["study_id", "rr_interval", *REPORTS], dictionary=REPORTS)
        self._reports = [measurements[name] for name in REPORTS]
        self._rr_interval = measurements["rr_interval"]
        self._measurement = _rows_of(self._records["study_id"], measurements["study_id"])
        file = patients or _find_patients(self._root, without_patients)
        columns = ["subject_id", "gender", "anchor_age", "anchor_year"]
        self._patients = _table(file, columns) if file else None
        if self._patients is not None:
            self._patient = _rows_of(self._records["subject_id"], self._patients["subject_id"])

    def __len__(self) -> int:
        return len(self._records)

    def name(self, number: int) -> str:
        return self._records["path"][number].as_py()

    def __getitem__(self, number: int) -> TableRecord:
        name = self.name(number)
        patient = self._records["subject_id"][number].as_py()
        time = parse_time(self._records["ecg_time"][number].as_py())
        fields = self._measured(self._measurement[number]) | self._person(number, time)
        return TableRecord(
            name, self._root / name, patient, time, in_test_fold(patient, self._test_share),
            {field: value for field, value in fields.items() if value is not None},
        )  # fmt: skip

    def _measured(self, row: int) -> dict:
        if row < 0:
            return {}
        statements = [text.strip() for column in self._reports if (text := column[row].as_py())]
        return {
            "report": "|".join(text for text in statements if text) or None,
            "heart_rate": heart_rate(_number(self._rr_interval[row].as_py())),
        }

    def _person(self, number: int, time: np.datetime64 | None) -> dict:
        if self._patients is None or self._patient[number] < 0:
            return {}
        row = {name: self._patients[name][self._patient[number]].as_py() for name in self._patients.column_names}
        anchor_age, anchor_year = _number(row["anchor_age"]), _number(row["anchor_year"])
        known = time is not None and anchor_age is not None and anchor_year is not None
        return {
            "age": time.astype("datetime64[Y]").astype(int) + 1970 - anchor_year + anchor_age if known else None,
            "sex": sex_letter(row["gender"]),
        }


def heart_rate(rr_interval: float | None) -> float | None:
    """Beats per minute from an RR interval in ms; None where it is missing or the rate is not in 20..300."""
    low, high = HEART_RATE_RANGE
    rate = 60_000 / rr_interval if rr_interval else 0.0
    return rate if low <= rate <= high else None


def _find_patients(root: Path, may_miss: bool) -> Path | None:
    found = [root / name for name in PATIENTS if (root / name).is_file()]
    if not found and not may_miss:
        raise RecordError(
            f"{root}: no {PATIENTS[0]} or {PATIENTS[1]} of MIMIC-IV, which knows age and sex: give --patients, or "
            "--keep-unknown to do without them"
        )
    return found[0] if found else None


def _rows_of(keys: pa.ChunkedArray, table: pa.ChunkedArray) -> np.ndarray:
    """The row of `table` in which each key is, -1 where it is in none."""
    return pc.fill_null(pc.index_in(keys, value_set=table.combine_chunks()), -1).to_numpy()


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _table(path: Path, columns: list[str], dictionary: tuple[str, ...] = ()) -> pa.Table:
    coded = pa.dictionary(pa.int32(), pa.string())
    types = {name: coded if name in dictionary else pa.string() for name in columns}
    options = csv.ConvertOptions(include_columns=columns, column_types=types, strings_can_be_null=False)
    try:
        table = csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file; MIMIC-IV-ECG has it") from None
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RecordError(f"{path}: not readable as a table with {', '.join(columns)}: {error}") from error
    return table.combine_chunks()
