"""Pairs of one person's records, numbered so that any of them can be had without a list of all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .store import Store, labels


class Pairs:
    """Pairs (reference, target) of one person's records: the earlier one is the reference (arXiv 2508.02720).

    No pair are records equal in both heart rate and report, nor those with the same signal to the last bit. Records
    that are no `target` are references only. Records of equal or unknown time keep their order in the store, unknown
    ones last. Pairs are in order of person, target, reference.

    Args:
        store: where the records are. rows: indices of those to use, such as `store.rows(test=False)`.
        per_patient: at most so many pairs of one person, evenly spaced among all of theirs; None takes all.
        both_orders: the later record is the reference of the earlier one, too.
    """

    def __init__(self, store: Store, rows: np.ndarray, per_patient: int | None = None, both_orders: bool = False):
        rows = np.sort(np.asarray(rows, dtype=np.int64))
        order = np.lexsort((store.time[rows], store.person[rows]))
        self._rows = rows[order]
        person = store.person[self._rows]
        place = np.arange(len(person))
        self._first = np.searchsorted(person, person)
        self._end = np.searchsorted(person, person, side="right") if both_orders else place
        condition = labels(person, store.heart_rate[self._rows], store.report_key[self._rows])
        signal = labels(person, store.signal_hash[self._rows])
        # A record that is in two sets of unwanted references is to be counted once.
        self._unwanted = [(_Groups(condition), 1), (_Groups(signal), 1), (_Groups(labels(condition, signal)), -1)]
        references = self._references(place, self._end) * store.target[self._rows]
        self._excluded = self._end - self._first - references
        self._end_of_target = np.cumsum(references)
        starts = np.flatnonzero(np.diff(person, prepend=-1))
        self._all = np.add.reduceat(references, starts) if len(starts) else references
        self._before = np.cumsum(self._all) - self._all
        self._kept = self._all if per_patient is None else np.minimum(self._all, per_patient)
        self._end_of_person = np.cumsum(self._kept)

    def __len__(self) -> int:
        return int(self._end_of_person[-1]) if len(self._end_of_person) else 0

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """The pairs (n, 2) int64 of these numbers (n,), each in 0..len - 1."""
        numbers = np.asarray(numbers, dtype=np.int64)
        person = np.searchsorted(self._end_of_person, numbers, side="right")
        return self._of_person(person, numbers - self._end_of_person[person] + self._kept[person])

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` pairs (count, 2) int64, each uniform over all pairs; none where there are no pairs."""
        return self[rng.integers(len(self), size=count)] if len(self) else np.zeros((0, 2), np.int64)

    def draw_people(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """A pair of each of `count` different people, (count, 2) int64; fewer where fewer people have pairs."""
        people = np.flatnonzero(self._kept)
        people = rng.choice(people, size=min(count, len(people)), replace=False)
        return self._of_person(people, rng.integers(self._kept[people]))

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Every pair once, in order, in arrays (size, 2) int64; the last one may be shorter."""
        for start in range(0, len(self), size):
            yield self[np.arange(start, min(start + size, len(self)))]

    def _of_person(self, person: np.ndarray, number: np.ndarray) -> np.ndarray:
        number = self._before[person] + number * self._all[person] // np.maximum(self._kept[person], 1)
        target = np.searchsorted(self._end_of_target, number, side="right")
        skipped = number - np.concatenate([[0], self._end_of_target])[target]
        # The reference is the last place before which `skipped` references lie; so many places are none that
        # it cannot be further on.
        low = self._first[target] + skipped
        high = low + 1 + self._excluded[target]
        while (high - low > 1).any():
            middle = (low + high) // 2
            beyond = self._references(target, middle) > skipped
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return np.stack([self._rows[low], self._rows[target]], axis=1)

    def _references(self, target: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """How many of a target's person's records before place `stop` can be its reference."""
        count = stop - self._first[target]
        for groups, sign in self._unwanted:
            count -= sign * groups.members(target, stop)
        return count


class _Groups:
    """Places grouped by label, to count a group's members before a place."""

    def __init__(self, label: np.ndarray):
        self._label = label
        self._size = len(label) + 1
        self._sorted = np.sort(label * self._size + np.arange(len(label)))
        self._start = np.searchsorted(self._sorted, label * self._size)

    def members(self, place: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """How many places before `stop` are of the group of `place`."""
        return np.searchsorted(self._sorted, self._label[place] * self._size + stop) - self._start[place]
