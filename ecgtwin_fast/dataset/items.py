"""What travels between the parts: an item of a plan, the record made of it, and what all records share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ..generate import Condition


@dataclass(frozen=True)
class Asked:
    """A condition of a plan; None stands for the reference's own heart rate (bpm), age (years) or sex ("F" or "M")."""

    report: str
    heart_rate: float | None = None
    age: float | None = None
    sex: str | None = None


@dataclass(frozen=True)
class Item:
    """Number `index` of a plan: the given twin (0 up) of a reference (0 up) under one of its conditions (0 up)."""

    index: int
    reference: int
    condition: int
    twin: int
    asked: Asked


@dataclass(frozen=True)
class Made:
    """A generated record: the reference's name and patient, the condition in full, the first 64 bits of the base
    vector's digest in hexadecimal, and the signal, float32 (1024, 12) in mV with leads in the order of MODEL_LEADS."""

    index: int
    reference: str
    patient: str
    condition: int
    twin: int
    asked: Condition
    base_vector: str
    signal: np.ndarray


@dataclass(frozen=True)
class Failed:
    """An item of which no record could be made: a short reason, equal for equal defects, and the whole message."""

    index: int
    reference: str
    reason: str
    message: str


@dataclass(frozen=True)
class Facts:
    """What all records of a data set share."""

    seed: int
    sampler: str
    steps: int
    model: str
    model_digest: str
    backend: str
    dtype: str
