"""The conditions of a plan: listed, or drawn for each reference."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..data.condition import AGE_RANGE, HEART_RATE_RANGE, check_age, check_heart_rate, check_sex
from .items import Asked

if TYPE_CHECKING:
    from .plan import Plan

REFERENCE = "reference"
"""Says that a value is the reference's own, which Asked has as None."""
PATIENT = ("heart_rate", "age", "sex")
"""What a condition says beside its report."""
LIMITS = {"heart_rate": HEART_RATE_RANGE, "age": AGE_RANGE}
CHECKS = {"heart_rate": check_heart_rate, "age": check_age, "sex": check_sex}

_STREAM = 0x65636774  # keeps these draws apart from others that have the same seed for a Philox key


@dataclass(frozen=True)
class Uniform:
    """Numbers from low to high, all as likely."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The number below which a share (0..1) of all numbers lie."""
        return self.low + share * (self.high - self.low)

    def to_json(self) -> dict:
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True)
class Normal:
    """Normally distributed numbers; those beyond `limits` become the limit."""

    mean: float
    deviation: float
    limits: tuple[float, float]

    def at(self, share: float) -> float:
        """The number below which a share (above 0, below 1) of all numbers lie."""
        low, high = self.limits
        return min(max(NormalDist(self.mean, self.deviation).inv_cdf(share), low), high)

    def to_json(self) -> dict:
        return {"normal": [self.mean, self.deviation]}


@dataclass(frozen=True)
class Weighted:
    """One of several values, by weights above 0 that need not sum to 1."""

    values: tuple
    weights: tuple[float, ...]

    def at(self, share: float) -> object:
        """The value in which a share (0..1) of all weight lies, in the order given."""
        bounds = self._bounds
        return self.values[min(bisect_right(bounds, share * bounds[-1]), len(bounds) - 1)]

    def to_json(self) -> dict:
        return dict(zip(self.values, self.weights, strict=True))

    @cached_property
    def _bounds(self) -> list[float]:
        return list(accumulate(self.weights))


Value = float | str | Uniform | Normal | Weighted | None
"""A heart rate, age or sex: itself, what it is drawn from, or None, the reference's own."""


@dataclass(frozen=True)
class Statement:
    """A report that may be drawn, its weight, and the values that it has instead of the common ones."""

    report: str
    weight: float = 1.0
    own: Mapping[str, Value] = field(default_factory=dict)

    def values(self, common: Mapping[str, Value]) -> dict[str, Value]:
        return {**common, **self.own}

    def to_json(self) -> dict:
        return {"report": self.report, "weight": self.weight} | _values_json(self.own)


@dataclass(frozen=True)
class Draw:
    """`count` conditions for each reference, each a statement by weight under its own or the common values."""

    count: int
    statements: tuple[Statement, ...]
    common: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict:
        statements = [statement.to_json() for statement in self.statements]
        return {"draw": {"count": self.count} | _values_json(self.common) | {"statements": statements}}


class Conditions(Protocol):
    """So many conditions, `len(conditions)`, for each reference."""

    def __len__(self) -> int: ...

    def asked(self, reference: int, condition: int) -> Asked:
        """A condition (0 up) of a reference (0 up)."""
        ...


def open_conditions(plan: Plan) -> Conditions:
    """The conditions of a plan. They cost nothing to open; each is made when it is asked for."""
    return Drawn(plan.conditions, plan.seed) if isinstance(plan.conditions, Draw) else Listed(plan.conditions)


class Listed:
    """The same conditions for each reference."""

    def __init__(self, conditions: Sequence[Asked]):
        self._conditions = conditions

    def __len__(self) -> int:
        return len(self._conditions)

    def asked(self, reference: int, condition: int) -> Asked:
        return self._conditions[condition]


class Drawn:
    """Conditions that depend on the seed, the reference's number and their own, and on nothing else."""

    def __init__(self, draw: Draw, seed: int):
        self._draw, self._seed = draw, seed
        self._statements = Weighted(draw.statements, tuple(statement.weight for statement in draw.statements))

    def __len__(self) -> int:
        return self._draw.count

    def asked(self, reference: int, condition: int) -> Asked:
        if not 0 <= condition < len(self):
            raise IndexError(f"condition {condition} of {len(self)}")
        first, *others = shares(self._seed, reference, condition)
        statement = self._statements.at(first)
        values = statement.values(self._draw.common)
        drawn = {name: _drawn(values.get(name), share) for name, share in zip(PATIENT, others, strict=True)}
        return Asked(statement.report, **drawn)


def shares(seed: int, reference: int, condition: int) -> list[float]:
    """Four numbers above 0 and below 1, uniform and independent, that these integers (0..2^64-1) alone decide.

    They are one block of Philox 4x64 (Salmon et al. 2011) with the reference and the condition in its counter.
    """
    key, counter = (np.array(words, np.uint64) for words in ([seed, _STREAM], [0, 0, condition, reference]))
    # Not a Generator's distributions, which may change from one release of NumPy to the next.
    raw = np.random.Philox(key=key, counter=counter).random_raw(4)
    return [((int(word) >> 12) + 0.5) * 2.0**-52 for word in raw]


def _drawn(value: Value, share: float) -> float | str | None:
    return value.at(share) if isinstance(value, Uniform | Normal | Weighted) else value


def _values_json(values: Mapping[str, Value]) -> dict:
    def plain(value: Value) -> object:
        if value is None:
            return REFERENCE
        return value.to_json() if isinstance(value, Uniform | Normal | Weighted) else value

    return {name: plain(values[name]) for name in PATIENT if name in values}
