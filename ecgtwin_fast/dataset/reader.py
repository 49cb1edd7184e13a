"""The first stage of a worker: items of a shard become batches that are ready for the networks."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ..data.record import Record
from ..errors import ConditionError, ECGTwinError
from ..generate import Condition
from .compute import Compute, base_digest
from .expansion import Expansion
from .items import Failed, Item
from .plan import Plan
from .references import References

ATTEMPTS = 3
RETRY_SECONDS = 0.2
_KEPT = 16


@dataclass(frozen=True)
class Known:
    """A reference that could be read: its name, patient, prepared record, base vector and that one's digest."""

    name: str
    patient: str
    record: Record
    base_vector: Tensor
    base_digest: str


@dataclass(frozen=True)
class Ready:
    """An item with all that the networks need for it."""

    item: Item
    reference: Known
    condition: Condition


class Reader:
    """Reads references as items need them, and keeps the last ones."""

    def __init__(self, expansion: Expansion, references: References, compute: Compute, plan: Plan):
        self._expansion, self._references, self._compute = expansion, references, compute
        self._batch_size, self._root = plan.batch_size, plan.references.path
        self._kept: OrderedDict[int, Known | Exception] = OrderedDict()

    def batches(self, shard: int, failed: list[Failed], retried: list[str]) -> Iterator[list[Ready]]:
        """Batches of consecutive items of the shard, cut at the same places in every run.

        Items without a usable reference or condition go into `failed`; what a second attempt mended, into `retried`.
        """
        items = self._expansion.range_of(shard)
        for start in range(0, len(items), self._batch_size):
            batch: list[Ready] = []
            for index in items[start : start + self._batch_size]:
                ready = self._ready(self._expansion.item(index), retried)
                if isinstance(ready, Ready):
                    batch.append(ready)
                    continue
                failed.append(ready)
                if batch:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def _ready(self, item: Item, retried: list[str]) -> Ready | Failed:
        known = self._known(item.reference, retried)
        name = self._references.name(item.reference)
        if isinstance(known, Exception):
            return Failed(item.index, name, _reason(known), self._message(known))
        try:
            asked = item.asked
            condition = Condition.from_reference(known.record, asked.report, asked.heart_rate, asked.age, asked.sex)
            self._compute.check(condition)
        except ConditionError as error:
            return Failed(item.index, name, error.reason, str(error))
        return Ready(item, known, condition)

    def _known(self, reference: int, retried: list[str]) -> Known | Exception:
        if reference not in self._kept:
            self._kept[reference] = self._read(reference, retried)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[reference]

    def _read(self, reference: int, retried: list[str]) -> Known | Exception:
        name = self._references.name(reference)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(RETRY_SECONDS * attempt)
            try:
                record, patient = self._references.load(reference)
                base_vector = self._compute.base_vector(record)
            except Exception as error:  # readers of many libraries, and one bad file must not end a run of days
                failure = error
                continue
            if attempt:
                retried.append(f"{name}: read at attempt {attempt + 1}")
            return Known(name, patient, record, base_vector, base_digest(base_vector))
        return failure

    def _message(self, error: Exception) -> str:
        """What a data set says of it is the same wherever its references lie."""
        return str(error).replace(f"{self._root}/", "") if self._root else str(error)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ECGTwinError) else type(error).__name__
