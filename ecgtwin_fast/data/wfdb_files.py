"""WFDB records: reading in mV with the condition from the header's comments, and writing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RecordError
from ..staging import staged_folder
from .arrays import Window
from .comments import condition_comments, parse_comments
from .leads import model_name
from .wfdb_plain import read_plain

if TYPE_CHECKING:
    from .record import Record

SUFFIXES = (".hea", ".dat", ".mat")
DAMAGED = "truncated or damaged"
_TO_MILLIVOLT = {"mv": 1.0, "v": 1e3, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_GAIN = 1000.0  # units per mV, as in PTB-XL: steps of 1 µV, ±32.767 mV in 16 bit
_LARGEST = 32767
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def record_stem(path: Path) -> Path:
    """The path without .hea, .dat or .mat; other dots belong to the record's name."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def read_wfdb(path: Path, window: Window) -> dict:
    """Fields of a WFDB record given by its header, its signal file or their stem. Missing samples are NaN.

    Units V, µV and nV become mV. The comments fill age, sex, report and heart rate. Raises RecordError naming the file.
    """
    stem = record_stem(path)
    header_path = Path(f"{stem}.hea")
    if not header_path.is_file():
        reason = "missing header" if any(Path(f"{stem}{suffix}").is_file() for suffix in SUFFIXES) else "missing record"
        raise RecordError(f"{header_path}: no such file; a WFDB record needs its header", reason)
    signal, rate, names, units = read_plain(header_path, window) or _read_any(stem, header_path, window)
    return {
        "signal": signal * _scales(stem, names, units),
        "sampling_rate": rate,
        "leads": tuple(names),
    } | parse_comments(_comments(header_path))


def _read_any(stem: Path, header_path: Path, window: Window) -> tuple[np.ndarray, float, list[str], list[str]]:
    """What read_plain gives, of any layout that the wfdb package reads."""
    import wfdb

    try:
        header = wfdb.rdheader(str(stem))
        first, last = _samples_of(header, header_path, window)
        record = wfdb.rdrecord(str(stem), sampfrom=first, sampto=last)
    except RecordError:
        raise
    except FileNotFoundError as error:
        missing = error.filename or stem
        raise RecordError(
            f"{missing}: no such file, though {header_path.name} names it", "missing signal file"
        ) from error
    except Exception as error:  # wfdb raises many classes for damaged files
        raise RecordError(f"{stem}: not readable as WFDB (truncated or damaged?): {error}", DAMAGED) from error
    if record.p_signal is None or len(record.p_signal) < last - first:
        raise RecordError(f"{stem}: holds no signal, or fewer samples than its header states", DAMAGED)
    return record.p_signal, float(record.fs), record.sig_name, record.units


def write_wfdb(record: Record, folder: str | Path, name: str, comments: Sequence[str] = ()) -> Path:
    """Write `folder/name.hea` and `.dat`: 16 bit, 1000 units per mV, comments and then the record's condition.

    Both appear when complete, the header last. Returns the header's path. Raises RecordError for samples that are
    not finite or exceed ±32.767 mV, and for a name that WFDB does not allow.
    """
    import wfdb

    target = Path(folder) / f"{name}.hea"
    if not _NAME.fullmatch(name):
        raise RecordError(f"{target}: a WFDB record's name holds letters, digits, '-' and '_' only")
    digital = _digital(record, target)
    leads = len(record.leads)
    with staged_folder(folder) as scratch:
        wfdb.wrsamp(
            name,
            fs=record.sampling_rate,
            units=["mV"] * leads,
            sig_name=list(record.leads),
            d_signal=digital,
            fmt=["16"] * leads,
            adc_gain=[_GAIN] * leads,
            baseline=[0] * leads,
            comments=[" ".join(line.split()) for line in (*comments, *condition_comments(record))],
            write_dir=str(scratch),
        )
    return target


def _comments(header_path: Path) -> list[str]:
    # wfdb drops every letter that is not ASCII.
    lines = header_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#")]


def _samples_of(header, path: Path, window: Window) -> tuple[int, int]:
    if not header.fs or header.fs <= 0:
        raise RecordError(f"{path}: sampling rate is {header.fs} Hz, expected a positive number", DAMAGED)
    if not header.sig_len:
        raise RecordError(f"{path}: the header states no samples", DAMAGED)
    return window.samples(path, header.sig_len, header.fs)


def _scales(stem: Path, leads: Sequence[str], units: Sequence[str]) -> np.ndarray:
    """Factor to mV per lead. Channels that are no ECG leads (respiration, pressure) stay in their own unit."""
    known = [_TO_MILLIVOLT.get(unit.strip().lower()) for unit in units]
    for lead, unit, scale in zip(leads, units, known, strict=True):
        if scale is None and model_name(lead):
            raise RecordError(f"{stem}: lead {lead} is in {unit!r}, expected V, mV, µV or nV", "unknown unit")
    return np.array([1.0 if scale is None else scale for scale in known])


def _digital(record: Record, target: Path) -> np.ndarray:
    for lead, column in zip(record.leads, record.signal.T, strict=True):
        bad = int(np.sum(~np.isfinite(column)))
        if bad:
            raise RecordError(f"{target}: lead {lead} holds {bad} samples that are not finite")
        largest = float(np.abs(column).max(initial=0.0))
        if largest * _GAIN > _LARGEST:
            raise RecordError(
                f"{target}: lead {lead} reaches {largest:.1f} mV; 16 bit hold ±{_LARGEST / _GAIN:.3f} mV"
            )
    return np.round(record.signal * _GAIN).astype(np.int16)
