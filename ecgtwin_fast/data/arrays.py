"""ECGs in CSV tables and NumPy files, as fields of a Record, and the window of time to read."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RecordError

_TIME_NAMES = ("time", "t", "time_s", "time (s)", "seconds")
_TEXT_FIELDS = ("sex", "report", "source")
_NUMBER_FIELDS = ("age", "heart_rate")


@dataclass(frozen=True)
class Window:
    """Which part of a record to read: `seconds` (None: all that follows) from `offset` seconds on."""

    offset: float = 0.0
    seconds: float | None = 10.0

    def samples(self, path: Path, total: int, sampling_rate: float) -> tuple[int, int]:
        """First and last+1 sample of the window in a record of `total` samples; RecordError past its end."""
        first = round(self.offset * sampling_rate)
        if first >= total:
            raise RecordError(
                f"{path}: offset {self.offset:g} s is past its end, {total / sampling_rate:g} s ({total} samples)"
            )
        if self.seconds is None:
            return first, total
        return first, min(total, first + int(np.ceil(self.seconds * sampling_rate - 1e-6)))


def read_csv(path: Path, window: Window, sampling_rate: float | None = None) -> dict:
    """Fields of a table whose header names the leads, in mV; the rate from its `time` column (s) or as given.

    An empty cell is a missing sample (NaN). Raises RecordError for a missing file, a bad cell, no rate.
    """
    header, rows = _csv_rows(path)
    table = _csv_numbers(path, header, rows)
    times = [index for index, name in enumerate(header) if name.lower() in _TIME_NAMES]
    if sampling_rate is None:
        if not times:
            raise RecordError(f"{path}: no column 'time' in seconds; give the sampling rate in Hz instead")
        sampling_rate = _rate_from_times(path, table[:, times[0]])
    keep = [index for index in range(len(header)) if index not in times]
    return _windowed(path, table[:, keep], sampling_rate, [header[index] for index in keep], window)


def read_numpy(
    path: Path, window: Window, sampling_rate: float | None = None, leads: tuple[str, ...] | None = None
) -> dict:
    """Fields of a .npz (signal in mV, sampling_rate, leads; age, sex, report, heart_rate, source) or .npy.

    A .npy holds the signal alone, (samples, leads): sampling rate and leads must be given. Nothing
    is unpickled. Raises RecordError for a missing or unreadable file and for missing fields.
    """
    content = _load_numpy(path)
    if sampling_rate is not None:
        content["sampling_rate"] = sampling_rate
    if leads is not None:
        content["leads"] = leads
    missing = [key for key in ("signal", "sampling_rate", "leads") if key not in content]
    if missing:
        raise RecordError(
            f"{path}: {', '.join(missing)} missing; a .npz has them as keys, for a .npy give them"
        )
    names = [str(name) for name in np.atleast_1d(content["leads"])]
    try:
        signal = np.asarray(content["signal"], dtype=np.float32)
        rate = float(content["sampling_rate"])
        extra = {key: str(content[key]) for key in _TEXT_FIELDS if key in content}
        extra |= {key: float(content[key]) for key in _NUMBER_FIELDS if key in content}
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from error
    return _windowed(path, signal, rate, names, window) | extra


def _windowed(path: Path, signal: np.ndarray, rate: float, leads: list[str], window: Window) -> dict:
    if signal.ndim != 2 or signal.shape[1] != len(leads):
        raise RecordError(
            f"{path}: signal of shape {signal.shape} does not fit (samples, {len(leads)} leads)"
        )
    if not (np.isfinite(rate) and rate > 0):
        raise RecordError(f"{path}: sampling rate is {rate:g} Hz, expected a positive number")
    first, last = window.samples(path, len(signal), rate)
    return {"signal": signal[first:last], "sampling_rate": rate, "leads": tuple(leads)}


def _csv_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: not readable as CSV: {error}") from error
    if len(rows) < 2:
        raise RecordError(
            f"{path}: expected a header of lead names and a row per sample, found {len(rows)} rows"
        )
    return [name.strip() for name in rows[0]], rows[1:]


def _csv_numbers(path: Path, header: list[str], rows: list[list[str]]) -> np.ndarray:
    table = np.empty((len(rows), len(header)), dtype=np.float64)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise RecordError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}")
        try:
            table[number - 2] = [float(cell) if cell.strip() else np.nan for cell in row]
        except ValueError:
            raise RecordError(
                f"{path}: row {number} holds a cell that is not a number: {', '.join(row)[:60]}"
            ) from None
    return table


def _rate_from_times(path: Path, times: np.ndarray) -> float:
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else 0.0
    if not np.isfinite(times).all() or step <= 0 or np.abs(steps - step).max() > 0.5 * step:
        raise RecordError(f"{path}: column 'time' must rise evenly, in seconds (median step {step:g} s)")
    # The mean over the whole table is exact where single steps carry rounded decimals.
    return round(len(steps) / float(times[-1] - times[0]), 3)


def _load_numpy(path: Path) -> dict:
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if path.suffix.lower() == ".npz" else {"signal": loaded}
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, header and pickle errors of many classes
        raise RecordError(f"{path}: not readable as NumPy: {error}") from error
