"""The commonest WFDB layout read directly: one signal file of 16-bit samples, as in PTB-XL and MIMIC-IV-ECG.

The wfdb package takes some 8 ms for such a record, nearly all of it for the header; this takes a tenth of that.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .arrays import Window

_NUMBER = r"\d+(?:\.\d+)?"
_RECORD = re.compile(rf"[^\s/]+\s+(\d+)\s+({_NUMBER})\s+(\d+)(?:\s.*)?")
_SIGNAL = re.compile(
    rf"(\S+)\s+16\s+({_NUMBER})(?:\((-?\d+)\))?(?:/(\S+))?\s+\d+\s+(-?\d+)\s+-?\d+\s+-?\d+\s+\d+\s+(\S.*?)\s*", re.ASCII
)
_MISSING = -32768


def read_plain(header: Path, window: Window) -> tuple[np.ndarray, float, list[str], list[str]] | None:
    """Signal (samples, leads) float64 in physical units, sampling rate, names and units of the leads.

    Missing samples are NaN. None where the record has another layout or is damaged, for the wfdb package to read or to
    explain. Raises RecordError for a window past the end.
    """
    lines = [line for line in header.read_bytes().decode("latin-1").splitlines() if line.strip() and line[0] != "#"]
    if not lines or not all(line.isascii() for line in lines):
        return None
    record = _RECORD.fullmatch(lines[0])
    signals = [_SIGNAL.fullmatch(line) for line in lines[1:]]
    if record is None or not signals or None in signals:
        return None
    leads, rate, total = int(record[1]), float(record[2]), int(record[3])
    files, gains, baselines, units, zeros, names = zip(*(match.groups() for match in signals), strict=True)
    gain = np.array(gains, dtype=np.float64)
    path = header.with_name(files[0])
    whole = len(set(files)) == 1 and path.is_file() and path.stat().st_size >= 2 * leads * total
    if len(signals) != leads or not (whole and rate and total and gain.all()):
        return None
    first, last = window.samples(header, total, rate)
    digital = np.fromfile(path, "<i2", count=(last - first) * leads, offset=2 * leads * first).reshape(-1, leads)
    baseline = [int(zero if base is None else base) for base, zero in zip(baselines, zeros, strict=True)]
    signal = (digital - np.array(baseline, dtype=np.float64)) / gain
    signal[digital == _MISSING] = np.nan
    return signal, rate, list(names), [unit or "mV" for unit in units]
