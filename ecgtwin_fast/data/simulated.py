"""A simulated cohort: patients, their conditions and 12-lead ECGs from a moving dipole, with the truth about them.

A patient is a set of Gaussian waves of the heart's dipole and a lead field (Sameni et al., 2007, after ECGSYN, McSharry
et al., 2003); a condition (report, heart rate, age, sex) chooses rhythm, conduction and ST-T. Limb leads obey
I + III = II to the last bit. Signals are synthetic, not for diagnosis.

`python -m ecgtwin_fast.data.simulated OUT` writes the package's simulated patient as WFDB into folder OUT.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .leads import MODEL_LEADS
from .record import Record, write_wfdb
from .simulated_condition import Condition, heart_of
from .simulated_noise import CARRIERS, Disturbance, carriers, draw_disturbance, draw_muscle
from .simulated_patient import ANATOMY, Patient, shifted
from .simulated_render import render, twelve_leads
from .simulated_rhythms import draw_beats, waves_of
from .simulated_truth import Truth, truth

__all__ = [
    "ANATOMY", "Condition", "Patient", "Truth", "draw_visit", "simulate", "simulate_batch", "simulate_pair",
    "simulate_record", "simulate_records", "truth",
]  # fmt: skip

_AT_ONCE = 32  # records, so that a batch of any size stays in the cache


def draw_visit(seed: int, patient: int, visit: int) -> tuple[Patient, Condition, np.random.Generator]:
    """Patient, condition and generator of a visit of a cohort: for simulate_batch and, in the same state, for truth.

    A pure function of its arguments; a patient's visits are numbered 0, 1, ... with age.
    """
    person = Patient.draw(np.random.default_rng((seed, patient)))
    rng = np.random.default_rng((seed, patient, visit))
    return person, Condition.draw(rng, person, visit), rng


def simulate_batch(
    patients: Sequence[Patient],
    conditions: Sequence[Condition],
    generators: Sequence[np.random.Generator],
    sampling_rate: float = 102.4,
    samples: int = 1024,
    noise: float = 1.0,
) -> np.ndarray:
    """ECGs float32 (n, samples, 12) in mV, leads in the model's order; record i of patient, condition and generator i.

    `noise` scales baseline wander, muscle noise and mains hum. A record is the same to the bit alone and in any batch:
    it takes all of its random numbers from its own generator.
    """
    signals = np.empty((len(patients), samples, len(MODEL_LEADS)), np.float32)
    records = list(zip(patients, conditions, generators, strict=True))
    for start in range(0, len(records), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        signals[part] = _simulate(records[part], sampling_rate, samples, noise)
    return signals


def _simulate(
    records: list[tuple[Patient, Condition, np.random.Generator]], sampling_rate: float, samples: int, noise: float
) -> np.ndarray:
    duration = samples / sampling_rate
    waves: list[np.ndarray] = []
    fields: list[np.ndarray] = []
    disturbances: list[Disturbance] = []
    leads = np.empty((len(records), 8, samples), np.float32)
    for (patient, condition, rng), own in zip(records, leads, strict=True):
        heart = heart_of(patient, condition, rng)
        beats = draw_beats(heart, condition.heart_rate, duration, rng)
        waves.append(waves_of(heart, beats, duration, rng))
        # electrodes never sit twice in the same place
        fields.append(shifted(patient.lead_field, 0.08 * rng.standard_normal(6)))
        disturbances.append(draw_disturbance(patient.habits, heart.breath, sampling_rate, duration, rng))
        draw_muscle(disturbances[-1], sampling_rate, rng, own)
    leads *= np.float32(noise)
    sources = np.empty((len(records), 3 + CARRIERS, samples), np.float32)
    sources[:, :3] = render(waves, sampling_rate, samples).swapaxes(1, 2)
    carriers(disturbances, sampling_rate, sources[:, 3:])
    weights = noise * np.array([own.weights for own in disturbances])
    leads += np.concatenate([np.array(fields), weights], axis=2).astype(np.float32) @ sources
    return twelve_leads(leads)


def simulate(
    patient: Patient,
    condition: Condition,
    rng: np.random.Generator,
    sampling_rate: float = 102.4,
    samples: int = 1024,
    noise: float = 1.0,
) -> np.ndarray:
    """One ECG as float32 (samples, 12): simulate_batch's of one record."""
    return simulate_batch([patient], [condition], [rng], sampling_rate, samples, noise)[0]


def simulate_records(
    patients: Sequence[Patient],
    conditions: Sequence[Condition],
    generators: Sequence[np.random.Generator],
    sampling_rate: float = 102.4,
    samples: int = 1024,
) -> list[Record]:
    """simulate_batch's ECGs as Records."""
    signals = simulate_batch(patients, conditions, generators, sampling_rate, samples)
    return [
        Record(
            signal=signal,
            sampling_rate=sampling_rate,
            leads=MODEL_LEADS,
            age=condition.age,
            sex=condition.sex,
            report=condition.report,
            heart_rate=condition.heart_rate,
            source="simulated",
        )
        for signal, condition in zip(signals, conditions, strict=True)
    ]


def simulate_record(
    patient: Patient,
    rng: np.random.Generator,
    condition: Condition | None = None,
    sampling_rate: float = 102.4,
    samples: int = 1024,
    visit: int | None = None,
) -> Record:
    """A patient's ECG as a Record, under a condition that is drawn where none is given, at that visit or any."""
    condition = condition or Condition.draw(rng, patient, visit)
    return simulate_records([patient], [condition], [rng], sampling_rate, samples)[0]


def simulate_pair(rng: np.random.Generator) -> tuple[Record, Record]:
    """Reference and target: two visits of one patient under two conditions, 1024 samples at 102.4 Hz."""
    patient = Patient.draw(rng)
    return simulate_record(patient, rng, visit=0), simulate_record(patient, rng, visit=1)


def main() -> None:
    """Writes the simulated patient, 500 Hz WFDB, into the folder given on the command line."""
    import sys

    rng = np.random.default_rng(416)
    patient = Patient.draw(rng)
    condition = Condition.from_report("normal ECG|sinus rhythm", 68, 63, patient.sex)
    record = simulate_record(patient, rng, condition, sampling_rate=500, samples=5000)
    write_wfdb(record, sys.argv[1], "patient", comments=["simulated"])


if __name__ == "__main__":
    main()
