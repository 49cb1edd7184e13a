"""What can be wrong with the records of a shard whose bytes are those that were written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..data.condition import check_age, check_heart_rate, check_sex, split_report
from ..errors import ConditionError
from .formats.stored import LARGEST

if TYPE_CHECKING:
    from .formats.stored import Stored
    from .items import Facts
    from .manifest import Entry

SHOWN = 5
"""Numbers that a message names."""


def record_defects(record: Stored, facts: Facts) -> Iterator[str]:
    """Defects of a record by itself, in words that are equal for equal ones."""
    if not (np.isfinite(record.gain) and record.gain > 0):
        yield "a gain that is not finite and positive"
    else:
        lowest, highest = int(record.signal.min()), int(record.signal.max())
        if lowest == -32768:
            yield "a sample of -32768, which stands for a missing one"
        # The gain is rounded to float32.
        elif max(-lowest, highest) / record.gain > LARGEST * (1 + 1e-6):
            yield f"an amplitude beyond {LARGEST} mV"
    checks = {split_report: record.report, check_heart_rate: record.heart_rate, check_age: record.age}
    for check, value in (checks | {check_sex: record.sex}).items():
        try:
            check(value)
        except ConditionError as error:
            yield error.reason
    if record.seed != facts.seed:
        yield f"a seed other than {facts.seed}"
    if record.model != facts.model_digest:
        yield "another model's digest"


def index_problems(entry: Entry, indices: list[int]) -> Iterator[str]:
    """What is wrong with the indices of a shard's records, as they follow in it."""
    failed = [item.index for item in entry.failed]
    if entry.records + len(failed) != entry.count or len(indices) != entry.records:
        yield (
            f"holds {len(indices)} records and has {len(failed)} failures; the manifest says "
            f"{entry.records} records of {entry.count} items"
        )
    counts = Counter((*indices, *failed))
    expected = range(entry.first, entry.first + entry.count)
    doubled = sorted(index for index, count in counts.items() if count > 1)
    missing = [index for index in expected if index not in counts]
    foreign = sorted(index for index in counts if index not in expected)
    if doubled:
        yield f"holds {some('item', doubled)} twice"
    if missing:
        yield f"lacks {some('item', missing)}"
    if foreign:
        yield f"holds {some('item', foreign)} of another shard"
    if not (doubled or missing or foreign) and indices != sorted(indices):
        yield "does not hold its records in order"


def some(noun: str, numbers: list[int]) -> str:
    """'7 records (3, 4, 5, 8, 9, ...)'."""
    return f"{len(numbers)} {noun}s ({listed(map(str, numbers[:SHOWN]), len(numbers))})"


def listed(shown: Iterable[str], count: int) -> str:
    """The first of `count` things."""
    return ", ".join(shown) + (", ..." if count > SHOWN else "")
