"""Training data in memory: simulated patients and, where PTB-XL is at hand, its patients with rate variants."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.condition import patient_vector, split_report
from ..data.preprocess import SAMPLES, SAMPLING_RATE, prepare
from ..data.ptbxl import PTBXL
from ..data.record import Record
from ..data.simulated import Patient, simulate_record
from ..data.text import TextEncoder
from ..errors import ECGTwinError
from .rate_variants import ALIGNED_SOURCE, FIRST_R, median_beat, rate_variant

TEST_FOLD = 10
CHUNK = 250


@dataclass
class Cohort:
    """ECGs grouped by person.

    signals: (N, 1024, 12) float16 in mV. patient: (N, 3) float32 patient vectors. tokens: (N, T) int64 rows of
    `embeddings`, row 0 is padding. embeddings: (S + 1, width) float32. person: (N,) int64, records of one person are
    neighbours. real: (N,) bool. aligned: (N,) bool, the first R wave lies at FIRST_R; other records are never
    targets. rejected: file name and reason of records that could not be used.
    """

    signals: np.ndarray
    patient: np.ndarray
    tokens: np.ndarray
    embeddings: np.ndarray
    person: np.ndarray
    real: np.ndarray
    aligned: np.ndarray
    rejected: list[str]

    @property
    def pairs(self) -> np.ndarray:
        """(P, 2) all ordered pairs (reference, aligned target) of different records of one person."""
        starts = np.flatnonzero(np.diff(self.person, prepend=-1))
        counts = np.diff(np.append(starts, len(self.person)))
        pairs = np.concatenate(
            [start + np.argwhere(~np.eye(count, dtype=bool)) for start, count in zip(starts, counts, strict=True)]
        )
        return pairs[self.aligned[pairs[:, 1]]]


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


def _simulate_chunk(seed: tuple[int, int]) -> list[Record]:
    rng = np.random.default_rng(seed)
    patients = [Patient.draw(rng) for _ in range(CHUNK)]
    long = SAMPLES + int(2 * SAMPLING_RATE)
    return [align(simulate_record(patient, rng, samples=long)) for patient in patients for _ in range(2)]


def simulated_people(count: int, seed: int, workers: int) -> Iterator[list[Record]]:
    """`count` simulated patients (rounded up to chunks), two records each."""
    with ProcessPoolExecutor(workers) as pool:
        chunks = pool.map(_simulate_chunk, [(seed, chunk) for chunk in range(-(-count // CHUNK))])
        for records in chunks:
            for first, second in zip(records[::2], records[1::2], strict=True):
                yield [first, second]


def ptbxl_people(root: Path, variants: int, seed: int, rejected: list[str]) -> Iterator[list[Record]]:
    """PTB-XL's patients outside the test fold: records that differ, and `variants` of each regular sinus rhythm."""
    database = PTBXL(root)
    for patient, ecg_ids in database.patients().items():
        rng = np.random.default_rng((seed, patient))
        people: list[Record] = []
        for ecg_id in ecg_ids:
            if database.row(ecg_id).strat_fold == TEST_FOLD:
                continue
            try:
                record = prepare(database.record(ecg_id))
                patient_vector(record.heart_rate, record.age, record.sex)
                split_report(record.report)
            except ECGTwinError as error:
                rejected.append(str(error))
                continue
            if any(np.array_equal(record.signal, other.signal) for other in people):
                continue
            people.append(record)
            beat = median_beat(record)
            if beat is not None:
                people += [rate_variant(record, beat, rng) for _ in range(variants)]
        if people:
            yield people


def build_cohort(
    encoder: TextEncoder,
    simulated: int,
    ptbxl: Path | None,
    variants: int = 8,
    max_tokens: int = 8,
    seed: int = 0,
    workers: int = 2,
) -> Cohort:
    """Draw the cohort: `simulated` patients, and PTB-XL's at `ptbxl` where given; reports longer than `max_tokens`
    statements keep the first ones."""
    rejected: list[str] = []
    rows: dict[str, int] = {}
    signals, patient, tokens, person, real, aligned = [], [], [], [], [], []

    def add(records: list[Record], is_real: bool) -> None:
        index = person[-1] + 1 if person else 0
        for record in records:
            statements = split_report(record.report)[:max_tokens]
            ids = [rows.setdefault(statement, len(rows) + 1) for statement in statements]
            signals.append(record.signal.astype(np.float16))
            patient.append(patient_vector(record.heart_rate, record.age, record.sex))
            tokens.append(ids + [0] * (max_tokens - len(ids)))
            person.append(index)
            real.append(is_real)
            aligned.append(not is_real or ALIGNED_SOURCE in record.source)

    if ptbxl is not None:
        for records in tqdm(ptbxl_people(ptbxl, variants, seed, rejected), desc="PTB-XL patients", unit="patient"):
            add(records, True)
    for records in tqdm(simulated_people(simulated, seed, workers), desc="simulated patients", total=simulated):
        add(records, False)
    embeddings = encoder.encode(list(rows))
    return Cohort(
        signals=np.stack(signals),
        patient=np.stack(patient).astype(np.float32),
        tokens=np.array(tokens),
        embeddings=np.concatenate([np.zeros_like(embeddings[:1]), embeddings]),
        person=np.array(person),
        real=np.array(real),
        aligned=np.array(aligned),
        rejected=rejected,
    )
