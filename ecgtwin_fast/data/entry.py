"""A record on its way into a store, as it travels from the process that prepared it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .condition import split_report
from .record import Record

LARGEST = 32767
"""Of a signal's integers: its gain makes the largest amplitude this."""


@dataclass(frozen=True)
class Entry:
    """A prepared record: signal (1024, 12) int16 with its gain in units per mV; the other fields as in Store."""

    name: str
    patient: str
    time: np.datetime64 | None
    age: float | None
    sex: str | None
    heart_rate: float
    statements: list[str]
    signal: np.ndarray
    gain: np.float32
    signal_hash: int
    real: bool
    target: bool
    test: bool

    @classmethod
    def of(
        cls,
        record: Record,
        name: str,
        patient: str,
        time: np.datetime64 | None = None,
        *,
        test: bool,
        real: bool = True,
        target: bool = True,
    ) -> Entry:
        """The entry of a record that data.preprocess.prepare has made. Raises ConditionError for an empty report."""
        signal, gain = digital(record.signal)
        return cls(
            name, patient, time, record.age, record.sex, record.heart_rate, split_report(record.report),
            signal, gain, signal_hash(signal, gain), real, target, test,
        )  # fmt: skip


@dataclass(frozen=True)
class Rejected:
    """A record that cannot be used: a short reason, equal for equal defects, and the whole message."""

    name: str
    reason: str
    message: str


def digital(signal: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """A signal in mV as int16 and their gain in units per mV: rounding errs by at most 1/65000 of its amplitude."""
    largest = float(np.abs(signal).max(initial=0.0))
    gain = np.float32(LARGEST / largest if largest > 0 else LARGEST)
    return np.rint(signal * gain).astype(np.int16), gain


def signal_hash(signal: np.ndarray, gain: np.float32) -> int:
    """64 bits of BLAKE2b of an int16 signal and its gain: equal where the signals are."""
    digest = hashlib.blake2b(np.ascontiguousarray(signal, "<i2").tobytes(), digest_size=8)
    digest.update(np.float32(gain).astype("<f4").tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)
