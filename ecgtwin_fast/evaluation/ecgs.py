"""A set of ECGs under evaluation: signals, what each shall show, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ..data.condition import patient_vectors
from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLING_RATE
from ..data.record import Record
from ..data.store import Store

UNKNOWN = -1


@dataclass(frozen=True)
class Ecgs:
    """n ECGs of one origin.

    signals: (n, 1024, 12) float32 in mV at 102.4 Hz, MODEL_LEADS. reports: (n,) str, statements joined by '|';
    heart_rate, age, sex: (n,) in bpm, years, 0 F or 1 M, NaN where unknown: what was asked for, or a real record's own.
    person: (n,) the number of the patient in the store of real ECGs. reference: (n,) the store's row from which a twin
    was made. target: (n,) the store's row whose condition it shows. UNKNOWN where not known.
    """

    name: str
    signals: np.ndarray
    reports: np.ndarray
    heart_rate: np.ndarray
    age: np.ndarray
    sex: np.ndarray
    person: np.ndarray
    reference: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, index: np.ndarray) -> Ecgs:
        return replace(self, **{item.name: getattr(self, item.name)[index] for item in fields(self)[1:]})

    @classmethod
    def of_store(cls, store: Store, rows: np.ndarray, name: str) -> Ecgs:
        """Records of a store."""
        return cls(
            name=name,
            signals=store.signals(rows),
            reports=np.array([store.report(row) for row in rows], dtype=object),
            heart_rate=store.heart_rate[rows].astype(np.float64),
            age=store.age[rows].astype(np.float64),
            sex=store.sex[rows].astype(np.float64),
            person=store.person[rows],
            reference=np.full(len(rows), UNKNOWN),
            target=np.asarray(rows),
        )

    def groups(self) -> np.ndarray:
        """(n,) equal where records are of one person; a record of nobody known is a group of its own."""
        return np.where(self.person >= 0, self.person, -1 - np.arange(1, len(self) + 1))

    def patient_vectors(self) -> np.ndarray:
        """float32 (n, 3), as the networks take them."""
        return patient_vectors(self.heart_rate, self.age, self.sex)

    def record(self, index: int) -> Record:
        """One of them, with its condition as far as known."""
        heart_rate, age, sex = (
            None if np.isnan(values[index]) else float(values[index])
            for values in (self.heart_rate, self.age, self.sex)
        )
        return Record(
            self.signals[index], SAMPLING_RATE, MODEL_LEADS, age, None if sex is None else "FM"[int(sex)],
            self.reports[index], heart_rate,
        )  # fmt: skip


def joined(parts: list[Ecgs], name: str) -> Ecgs:
    """Several sets in a row; their persons are taken for different ones."""
    persons, first = [], 0
    for part in parts:
        persons.append(np.where(part.person >= 0, part.person + first, UNKNOWN))
        first += int(part.person.max(initial=-1)) + 1
    columns = {item.name: np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Ecgs)[1:]}
    return Ecgs(name, **columns | {"person": np.concatenate(persons)})
