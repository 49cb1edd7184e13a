"""What a worker is given and what it gives back; both travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .manifest import Entry
    from .plan import Plan


@dataclass(frozen=True)
class Job:
    """The plan, the folder of the data set, and the device of the networks (None: CUDA where there is one)."""

    plan: Plan
    out: str
    device: str | None = None


@dataclass(frozen=True)
class Result:
    """A finished shard: its line of the manifest, seconds for which the device worked on it, when that began and the
    shard was on disk (seconds of the epoch), and what was retried on the way."""

    entry: Entry
    busy: float
    began: float
    ended: float
    retried: tuple[str, ...] = ()
