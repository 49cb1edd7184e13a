"""The bundled model's data: simulated patients and, where PTB-XL is at hand, its patients with rate variants."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.condition import patient_vector, split_report
from ..data.entry import Entry, Rejected
from ..data.preprocess import SAMPLES, SAMPLING_RATE, prepare
from ..data.ptbxl import PTBXL
from ..data.record import Record
from ..data.simulated import Patient, simulate_record
from ..data.store import Store
from ..data.store_writer import StoreWriter
from ..data.text import TextEncoder
from ..errors import ECGTwinError
from .rate_variants import ALIGNED_SOURCE, FIRST_R, median_beat, rate_variant

TEST_FOLD = 10
CHUNK = 250
"""People in a shard."""


@dataclass(frozen=True)
class Cohort:
    """What the store is drawn from.

    simulated: patients, two records each. ptbxl: folder of PTB-XL, whose patients outside the
    test fold are taken, or None. variants: of each regular sinus rhythm of PTB-XL, at other heart rates. max_tokens:
    longer reports keep the first statements.
    """

    simulated: int
    ptbxl: Path | None = None
    variants: int = 8
    max_tokens: int = 8
    seed: int = 0

    def store(self, path: Path, encoder: TextEncoder, workers: int = 2) -> Store:
        """The cohort as a store in folder `path`: written, gone on with after a break, or opened where it is there.

        Simulated people are not `real`; only records whose first R wave lies at FIRST_R are a `target`.
        Raises StoreError where the folder holds another store.
        """
        options = {"simulated": self.simulated, "ptb-xl": self.ptbxl is not None, "variants": self.variants}
        options |= {"max_tokens": self.max_tokens, "seed": self.seed}
        if (path / "store.json").is_file():
            found = Store(path)
            if found.options != options:
                raise ECGTwinError(f"{path}: holds a cohort of {found.options}, this run has {options}")
            return found
        writer = StoreWriter(path, "cohort", options)
        chunks = self._chunks()[writer.shards :]
        with ProcessPoolExecutor(workers) as pool:
            found = pool.map(self._entries, chunks)
            for entries, rejected in tqdm(found, desc="cohort", unit="chunk", total=len(chunks)):
                writer.write(entries, rejected)
        return writer.finish(encoder)

    def _chunks(self) -> list[tuple[int, ...] | int]:
        """patient_ids of PTB-XL, CHUNK at a time, then numbers of simulated chunks."""
        people = [] if self.ptbxl is None else list(PTBXL(self.ptbxl).patients())
        real = [tuple(people[start : start + CHUNK]) for start in range(0, len(people), CHUNK)]
        return [*real, *range(-(-self.simulated // CHUNK))]

    def _entries(self, chunk: tuple[int, ...] | int) -> tuple[list[Entry], list[Rejected]]:
        return self._simulated(chunk) if isinstance(chunk, int) else self._real(chunk)

    def _entry(self, record: Record, name: str, patient: str, real: bool, target: bool) -> Entry:
        report = "|".join(split_report(record.report)[: self.max_tokens])
        return Entry.of(replace(record, report=report), name, patient, test=False, real=real, target=target)

    def _simulated(self, chunk: int) -> tuple[list[Entry], list[Rejected]]:
        rng = np.random.default_rng((self.seed, chunk))
        patients = [Patient.draw(rng) for _ in range(min(CHUNK, self.simulated - chunk * CHUNK))]
        long = SAMPLES + int(2 * SAMPLING_RATE)
        entries = []
        for number, patient in enumerate(patients):
            for visit in range(2):
                record = align(simulate_record(patient, rng, samples=long, visit=visit))
                person = f"simulated {chunk}-{number}"
                entries.append(self._entry(record, f"{person}-{visit}", person, real=False, target=True))
        return entries, []

    def _real(self, chunk: tuple[int, ...]) -> tuple[list[Entry], list[Rejected]]:
        database = PTBXL(self.ptbxl)
        of_patient = database.patients()
        entries, rejected = [], []
        for patient in chunk:
            rng = np.random.default_rng((self.seed, patient))
            for ecg_id in of_patient[patient]:
                if database.row(ecg_id).strat_fold == TEST_FOLD:
                    continue
                name, person = f"PTB-XL {ecg_id}", f"PTB-XL {patient}"
                try:
                    record = prepare(database.record(ecg_id))
                    patient_vector(record.heart_rate, record.age, record.sex)
                    split_report(record.report)
                except ECGTwinError as error:
                    rejected.append(Rejected(name, error.reason, str(error)))
                    continue
                beat = median_beat(record)
                count = 0 if beat is None else self.variants
                for found in (record, *(rate_variant(record, beat, rng) for _ in range(count))):
                    aligned = ALIGNED_SOURCE in found.source
                    entries.append(self._entry(found, name, person, real=True, target=aligned))
        return entries, rejected


def align(record: Record) -> Record:
    """The part of a clean record, longer than 10 s, whose first QRS complex lies at FIRST_R."""
    before = int(FIRST_R * SAMPLING_RATE)
    energy = np.square(np.diff(record.signal, axis=0)).sum(1)
    energy = np.convolve(energy, np.ones(5), mode="same")
    latest = len(record.signal) - SAMPLES + before
    first = before + int(np.argmax(energy[before:latest] > 0.3 * np.quantile(energy, 0.99)))
    peak = first + int(np.argmax(energy[first : first + 12]))
    start = min(peak - before, len(record.signal) - SAMPLES)
    return replace(record, signal=record.signal[start : start + SAMPLES])
