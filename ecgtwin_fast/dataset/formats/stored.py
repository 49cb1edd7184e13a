"""A record as it lies on disk, and what every format does with it."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ... import NOTICE
from ...data.entry import digital
from ...data.leads import MODEL_LEADS
from ...data.preprocess import SAMPLES, SAMPLING_RATE
from ...errors import RecordError

if TYPE_CHECKING:
    from ..items import Facts, Made
    from ..manifest import Entry

SHAPE = (SAMPLES, len(MODEL_LEADS))
LARGEST = 32.767
"""Amplitude in mV that 16 bit hold at 1000 units per mV, and so the limit of every format."""
SMALLEST = 1e-30
"""Amplitude in mV, other than 0, whose gain float32 can hold."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A record: signal int16 (1024, 12), leads in the order of MODEL_LEADS, and gain in units per mV.

    heart_rate in bpm, age in years and sex "F" or "M" are the condition that was asked for, with report. base_vector:
    the first 64 bits of the base vector's digest, in hexadecimal. model: the digest of the model.
    """

    index: int
    reference: str
    patient: str
    condition: int
    twin: int
    report: str
    heart_rate: float
    age: float
    sex: str
    base_vector: str
    seed: int
    model: str
    gain: float
    signal: np.ndarray

    def values(self) -> dict:
        """All but the signal."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS = tuple(field.name for field in fields(Stored) if field.name != "signal")


class Format(Protocol):
    """One way to lay out shards. gain: units per mV of every record, None where each record has its own."""

    name: str
    gain: float | None = None

    def path(self, shard: int) -> str:
        """Of a shard's file or folder, relative to the data set."""
        ...

    def write(self, path: Path, shard: int, rows: Sequence[Stored], facts: Facts) -> None:
        """Write a shard to `path`; its bytes depend on nothing but shard, rows and facts."""
        ...

    def read(self, path: Path) -> Iterator[Stored]:
        """The records of a shard in order. Raises RecordError naming the file that is damaged."""
        ...

    def tables(self, out: Path, entries: Iterable[Entry]) -> dict[str, Iterator[bytes]]:
        """Name and content of each file at the top of a complete data set that gathers what its shards hold."""
        return {}


def check_signal(signal: np.ndarray, name: str) -> None:
    """RecordError unless the signal (1024, 12) in mV is finite and its amplitude can be stored, 32.767 mV at most.

    `name` begins the message.
    """
    if signal.shape != SHAPE:
        raise RecordError(f"{name}: signal of shape {signal.shape}, expected {SHAPE}", "wrong shape")
    bad = int(signal.size - np.isfinite(signal).sum())
    if bad:
        raise RecordError(f"{name}: {bad} of {signal.size} samples are not finite", "not finite")
    largest = float(np.abs(signal).max())
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise RecordError(
            f"{name}: reaches {largest:.3g} mV, expected {SMALLEST:g}..{LARGEST} mV or 0", "amplitude out of range"
        )


def stored(made: Made, facts: Facts, gain: float | None = None) -> Stored:
    """A generated record as 16 bit, at `gain` units per mV or its own best. Raises RecordError as check_signal does."""
    check_signal(made.signal, f"record {made.index}")
    if gain is None:
        signal, own = digital(made.signal)
        gain = float(own)
    else:
        signal = np.rint(made.signal * np.float64(gain)).astype(np.int16)
    asked = made.asked
    return Stored(
        made.index, made.reference, made.patient, made.condition, made.twin,
        asked.report, float(asked.heart_rate), float(asked.age), asked.sex,
        made.base_vector, facts.seed, facts.model_digest, gain, signal,
    )  # fmt: skip


def about(facts: Facts) -> dict:
    """What a file says of all its records."""
    return {
        "notice": NOTICE,
        "leads": list(MODEL_LEADS),
        "sampling_rate": SAMPLING_RATE,
        "units": "mV = signal / gain",
        "model_name": facts.model,
        "sampler": facts.sampler,
        "steps": facts.steps,
        "backend": facts.backend,
        "dtype": facts.dtype,
    }


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What damage raises in the libraries below, pyarrow's errors among it, becomes a RecordError naming the shard."""
    try:
        yield
    except RecordError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, csv.Error, tarfile.TarError) as error:
        raise RecordError(f"{path}: not readable, truncated or damaged: {error}", "damaged") from error
