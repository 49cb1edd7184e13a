"""All that the metrics look at in a set of ECGs, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .beats import measured_beats
from .ecgs import Ecgs
from .einthoven import einthoven_residual
from .encoders import BaseEncoder, ClipEncoder
from .spectra import log_spectra


@dataclass(frozen=True)
class Tools:
    """What measures; None where there is none. workers: processes for delineation."""

    clip: ClipEncoder | None = None
    base: BaseEncoder | None = None
    workers: int = 1


class Measured:
    """ecgs: n ECGs. rates (n,) in bpm, intervals (n, 5), plain (n, 51): of `beats.measured_beats`."""

    def __init__(self, ecgs: Ecgs, tools: Tools, rates: np.ndarray, intervals: np.ndarray, plain: np.ndarray):
        self.ecgs, self._tools = ecgs, tools
        self.rates, self.intervals, self.plain = rates, intervals, plain

    def __len__(self) -> int:
        return len(self.ecgs)

    @cached_property
    def einthoven(self) -> np.ndarray:
        """(n,) in mV."""
        return einthoven_residual(self.ecgs.signals)

    @cached_property
    def spectra(self) -> np.ndarray:
        """(n, 12, frequencies) in dB."""
        return log_spectra(self.ecgs.signals)

    @cached_property
    def clip(self) -> np.ndarray | None:
        """CLIP features of the signals (n, d)."""
        return self._tools.clip and self._tools.clip.signals(self.ecgs)

    @cached_property
    def text(self) -> np.ndarray | None:
        """CLIP features of the reports (n, d)."""
        return self._tools.clip and self._tools.clip.reports(self.ecgs)

    @cached_property
    def base(self) -> np.ndarray | None:
        """Base vectors (n, h)."""
        return self._tools.base and self._tools.base.bases(self.ecgs)


def measure(sets: Sequence[Ecgs], tools: Tools) -> list[Measured]:
    """Measure sets of ECGs; a signal that is in several of them once."""
    signals = [signal for ecgs in sets for signal in ecgs.signals]
    first: dict[bytes, int] = {}
    place = np.array([first.setdefault(_digest(signal), len(first)) for signal in signals], dtype=np.int64)
    distinct = np.unique(place, return_index=True)[1]
    found = measured_beats([signals[index] for index in distinct], tools.workers)
    ends = np.cumsum([len(ecgs) for ecgs in sets])[:-1]
    parts = zip(*(np.split(values[place], ends) for values in found), strict=True)
    return [Measured(ecgs, tools, *values) for ecgs, values in zip(sets, parts, strict=True)]


def _digest(signal: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(signal).tobytes(), digest_size=16).digest()


class PlainScale:
    """Plain features in units of real records' standard deviation; one that was not found stands at their mean."""

    def __init__(self, real: np.ndarray):
        known = ~np.isnan(real).all(0)
        self._kept = np.flatnonzero(known)[np.nanstd(real[:, known], axis=0) > 0]
        self._mean = np.nanmean(real[:, self._kept], axis=0)
        self._deviation = np.nanstd(real[:, self._kept], axis=0)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.nan_to_num((features[:, self._kept] - self._mean) / self._deviation)

    @property
    def width(self) -> int:
        """Number of features; 0 where none was found in any real record."""
        return len(self._kept)
