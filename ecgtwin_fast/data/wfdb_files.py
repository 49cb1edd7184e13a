"""WFDB records: reading in mV with the condition from the header's comments, and writing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RecordError
from .arrays import Window
from .condition import sex_letter

if TYPE_CHECKING:
    from .record import Record

_TO_MILLIVOLT = {"mv": 1.0, "v": 1e3, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_COMMENT = re.compile(r"^\s*<?\s*([A-Za-z][A-Za-z _-]*?)\s*>?\s*:\s*(.*?)\s*$")
_GAIN = 1000.0  # units per mV, as in PTB-XL: 1 µV steps, ±32.767 mV in 16 bit
_LARGEST = 32767


def read_wfdb(path: Path, window: Window) -> dict:
    """Fields of a WFDB record given by its .hea, its .dat or their stem. Missing samples are NaN.

    Units µV, mV and V become mV. Comments such as 'Age: 63', '<sex>: F', 'Dx: ...', 'Report: ...' and
    'Heart rate: 72' fill the condition. Raises RecordError naming the file.
    """
    import wfdb

    stem = path.with_suffix("") if path.suffix.lower() in (".hea", ".dat") else path
    header_path = Path(f"{stem}.hea")
    if not header_path.is_file():
        raise RecordError(f"{header_path}: no such file; a WFDB record needs its header")
    try:
        header = wfdb.rdheader(str(stem))
        first, last = _window_of(header, header_path, window)
        record = wfdb.rdrecord(str(stem), sampfrom=first, sampto=last)
    except RecordError:
        raise
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename or stem}: no such file, though {header_path.name} names it") from error
    except Exception as error:  # wfdb raises many classes for damaged files
        raise RecordError(f"{stem}: not readable as WFDB (truncated or damaged?): {error}") from error
    signal = record.p_signal
    if signal is None or len(signal) < (last or 0) - first:
        raise RecordError(f"{stem}: {0 if signal is None else len(signal)} samples where {last - first} were expected")
    fields = {
        "signal": signal * _scales(stem, record.sig_name, record.units),
        "sampling_rate": float(record.fs),
        "leads": tuple(record.sig_name),
    }
    return fields | parse_comments(header.comments or [])


def parse_comments(comments: Sequence[str]) -> dict:
    """Age, sex, report and heart rate from a WFDB header's comment lines, as far as they are there and make sense."""
    found: dict = {}
    for line in comments:
        for part in re.split(r"\s{2,}(?=<)|(?<=\S)\s+(?=<\w+>:)", line):
            match = _COMMENT.match(part)
            if match:
                _take_comment(match[1].strip().lower().replace("_", " "), match[2], found)
    return found


def write_wfdb(record: Record, folder: str | Path, name: str, comments: Sequence[str] = ()) -> Path:
    """Write `folder/name.hea` and `.dat`: 16 bit, 1000 units per mV, comments then the record's condition.

    Both files are written elsewhere first and renamed, the header last. Returns the header's path.
    Raises RecordError for samples that are not finite or exceed ±32.767 mV, and for a name that WFDB does not allow.
    """
    import wfdb

    target = Path(folder) / f"{name}.hea"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise RecordError(f"{target}: a WFDB record's name holds letters, digits, '-' and '_' only")
    digital = _digital(record, target)
    Path(folder).mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f".{name}-", dir=folder)
    try:
        wfdb.wrsamp(
            name, fs=record.sampling_rate, units=["mV"] * len(record.leads), sig_name=list(record.leads),
            d_signal=digital, fmt=["16"] * len(record.leads), adc_gain=[_GAIN] * len(record.leads),
            baseline=[0] * len(record.leads), write_dir=scratch,
            comments=[_one_line(text) for text in [*comments, *condition_comments(record)]],
        )  # fmt: skip
        for suffix in (".dat", ".hea"):
            os.replace(Path(scratch) / f"{name}{suffix}", Path(folder) / f"{name}{suffix}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def condition_comments(record: Record) -> list[str]:
    """The record's condition as header comments that parse_comments reads back."""
    lines = []
    if record.age is not None:
        lines.append(f"Age: {record.age:g}")
    if record.sex is not None:
        lines.append(f"Sex: {record.sex}")
    if record.report is not None:
        lines.append(f"Report: {record.report}")
    if record.heart_rate is not None:
        lines.append(f"Heart rate: {record.heart_rate:g}")
    return lines


def _take_comment(key: str, value: str, found: dict) -> None:
    number = re.match(r"[0-9]+(\.[0-9]+)?", value)
    if key == "age" and number:
        found["age"] = float(number[0])
    elif key in ("sex", "gender") and sex_letter(value):
        found["sex"] = sex_letter(value)
    elif key == "heart rate" and number:
        found["heart_rate"] = float(number[0])
    elif key == "report" and value:
        found["report"] = value
    elif key in ("dx", "diagnosis", "diagnoses", "reason for admission") and value and "report" not in found:
        found["report"] = "|".join(part.strip() for part in value.split(",") if part.strip())


def _window_of(header, path: Path, window: Window) -> tuple[int, int | None]:
    if not header.fs or header.fs <= 0:
        raise RecordError(f"{path}: sampling rate is {header.fs} Hz, expected a positive number")
    if not header.sig_len:
        raise RecordError(f"{path}: the header states no samples")
    return window.samples(path, header.sig_len, header.fs)


def _scales(stem: Path, leads: Sequence[str], units: Sequence[str]) -> np.ndarray:
    scales = []
    for lead, unit in zip(leads, units, strict=True):
        # Other channels (respiration in ohm, pressure in mmHg) are kept as they are: selection by name drops them.
        scales.append(_TO_MILLIVOLT.get(unit.strip().lower(), 1.0))
    return np.array(scales)


def _digital(record: Record, target: Path) -> np.ndarray:
    for lead, column in zip(record.leads, record.signal.T, strict=True):
        if not np.isfinite(column).all():
            raise RecordError(f"{target}: lead {lead} holds {np.sum(~np.isfinite(column))} samples that are not finite")
        if np.abs(column).max(initial=0.0) * _GAIN > _LARGEST:
            raise RecordError(
                f"{target}: lead {lead} reaches {np.abs(column).max():.1f} mV; 16 bit hold ±{_LARGEST / _GAIN:.3f} mV"
            )
    return np.round(record.signal * _GAIN).astype(np.int16)


def _one_line(text: str) -> str:
    return " ".join(text.split())
