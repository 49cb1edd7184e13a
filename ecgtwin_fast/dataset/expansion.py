"""A plan as numbered items, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .conditions import Conditions
from .items import Item

if TYPE_CHECKING:
    from .plan import Plan
    from .references import References


class Expansion:
    """Items 0..total-1 of R references under C conditions with T twins, i = (r * C + c) * T + t, cut into shards.

    Attributes:
        total: number of items. shards: their number; each has the plan's records_per_shard, the last what is left.
    """

    def __init__(self, plan: Plan, references: References, conditions: Conditions):
        self._conditions, self._columns, self._twins = conditions, len(conditions), plan.twins
        self._per_shard = plan.records_per_shard
        self.total = len(references) * self._columns * self._twins
        self.shards = -(-self.total // self._per_shard)

    def range_of(self, shard: int) -> range:
        """The numbers of a shard's items. Raises IndexError for one that is not there."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard}, expected 0..{self.shards - 1}")
        first = shard * self._per_shard
        return range(first, min(first + self._per_shard, self.total))

    def item(self, index: int) -> Item:
        """The item of a number. Raises IndexError for one that is not there."""
        if not 0 <= index < self.total:
            raise IndexError(f"item {index}, expected 0..{self.total - 1}")
        pair, twin = divmod(index, self._twins)
        reference, condition = divmod(pair, self._columns)
        return Item(index, reference, condition, twin, self._conditions.asked(reference, condition))

    def items(self, shard: int) -> Iterator[Item]:
        """The items of a shard in order."""
        return map(self.item, self.range_of(shard))
