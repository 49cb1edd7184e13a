"""An ECG record with its condition, and one function that reads it from any supported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RecordError
from . import arrays, ptbxl_table, wfdb_files
from .wfdb_files import write_wfdb

__all__ = ["Record", "read_record", "write_wfdb"]


@dataclass
class Record:
    """signal: float32 (samples, leads) in mV; sampling_rate in Hz; leads: one name per column.

    age in years, sex "F" or "M", report: statements joined by "|", heart_rate in beats per minute, source: where
    it came from; each None where unknown. Raises RecordError where shape, leads and sampling rate do not fit.
    """

    signal: np.ndarray
    sampling_rate: float
    leads: tuple[str, ...]
    age: float | None = None
    sex: str | None = None
    report: str | None = None
    heart_rate: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        self.signal = np.asarray(self.signal, dtype=np.float32)
        self.leads = tuple(self.leads)
        self.sampling_rate = float(self.sampling_rate)
        if self.signal.ndim != 2 or self.signal.shape[1] != len(self.leads):
            raise RecordError(
                f"{self.name}: signal of shape {self.signal.shape}, expected (samples, {len(self.leads)} leads)"
            )
        if not (np.isfinite(self.sampling_rate) and self.sampling_rate > 0):
            raise RecordError(
                f"{self.name}: sampling rate is {self.sampling_rate:g} Hz, expected a positive one"
            )

    @property
    def name(self) -> str:
        """The source, or 'record' where there is none: what error messages call it."""
        return self.source or "record"

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.signal) / self.sampling_rate

    def lead(self, name: str) -> np.ndarray:
        """One lead (samples,) in mV; RecordError where the record has none of that exact name."""
        if name not in self.leads:
            raise RecordError(f"{self.name}: no lead {name} among {', '.join(self.leads)}")
        return self.signal[:, self.leads.index(name)]


def read_record(
    path: str | Path, *, offset: float = 0.0, seconds: float | None = 10.0, **overrides
) -> Record:
    """Read `seconds` (None: all) from `offset` seconds on of a WFDB record, a CSV table or a NumPy file.

    path: a WFDB header, signal file or their common stem; a .csv in mV with a header of lead names and a `time`
    column in seconds or `sampling_rate=`; a .npz with signal, sampling_rate, leads and any other field of Record; a
    .npy with `sampling_rate=` and `leads=`. A record inside a PTB-XL folder takes age, sex and report from its
    database. overrides: fields of Record that replace what the file says; None leaves the file's.
    Raises RecordError for what cannot be read.
    """
    path = Path(path)
    given = {field: value for field, value in overrides.items() if value is not None}
    unknown = set(given) - set(Record.__dataclass_fields__)
    if unknown:
        raise TypeError(f"read_record has no argument {', '.join(sorted(unknown))}")
    if offset < 0 or (seconds is not None and seconds <= 0):
        raise RecordError(f"{path}: offset is {offset:g} s, length {seconds} s: expected 0 or more, above 0")
    window = arrays.Window(offset, seconds)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        fields = arrays.read_csv(path, window, given.get("sampling_rate"))
    elif suffix in (".npy", ".npz"):
        fields = arrays.read_numpy(path, window, given.get("sampling_rate"), given.get("leads"))
    elif path.is_dir() or (path.is_file() and suffix not in wfdb_files.SUFFIXES):
        raise RecordError(
            f"{path}: expected a WFDB record (.hea, .dat, .mat or their stem), .csv, .npz or .npy"
        )
    else:
        fields = wfdb_files.read_wfdb(path, window) | ptbxl_table.fields_of(path)
    return Record(**({"source": str(path)} | fields | given))
