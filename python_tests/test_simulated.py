"""The simulated cohort: reproducible alone and in any batch, consistent over visits, and worded as machines word it."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgtwin_fast.data import simulated
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import heart_rate_xqrs, resample
from ecgtwin_fast.data.record import read_record
from ecgtwin_fast.data.simulated import (
    ANATOMY,
    Condition,
    Patient,
    draw_visit,
    simulate,
    simulate_batch,
    simulate_pair,
    simulate_record,
    truth,
)
from ecgtwin_fast.data.simulated_noise import Habits, preparation_gain
from ecgtwin_fast.data.simulated_reports import BY_NAME, CHRONIC, GROUPS, effects_of, normalised
from ecgtwin_fast.data.simulated_vocabulary import ABNORMAL, FINDINGS, HEALTHY, NORMAL, RAPID, RHYTHMS, SLOW
from ecgtwin_fast.errors import ConditionError

SHIPPED = Path(simulated.__file__).parent / "patient"
HEADER_COMMENTS = [
    "# simulated",
    "# Age: 63",
    "# Sex: F",
    "# Report: normal ECG|sinus rhythm",
    "# Heart rate: 68",
]


def visits(count: int, visit: int = 0) -> tuple:
    """Patients, conditions and generators of a cohort."""
    return tuple(zip(*(draw_visit(7, number, visit) for number in range(count)), strict=True))


def leads_of(report: str, heart_rate: float = 70, seed: int = 0, noise: float = 0.0) -> dict[str, np.ndarray]:
    """Leads by name, 10 s at 500 Hz, of the patient that `seed` draws."""
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    condition = Condition.from_report(report, heart_rate, 60, patient.sex)
    return dict(zip(MODEL_LEADS, simulate(patient, condition, rng, 500, 5000, noise).T, strict=True))


def test_same_seed_same_ecg_and_other_seed_another():
    first, again, other = (simulate_pair(np.random.default_rng(seed)) for seed in (5, 5, 6))
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a.signal, b.signal) and a.report == b.report
        assert not np.array_equal(a.signal, c.signal)


@pytest.mark.parametrize(("sampling_rate", "samples"), [(102.4, 1024), (500, 5000), (102.4, 1229)])
def test_a_record_is_the_same_to_the_bit_alone_and_in_any_batch(sampling_rate, samples):
    batch = simulate_batch(*visits(40), sampling_rate, samples)
    assert batch.shape == (40, samples, 12) and batch.dtype == np.float32
    alone = [simulate(*one, sampling_rate, samples) for one in zip(*visits(40), strict=True)]
    assert np.array_equal(batch, alone)
    order = np.random.default_rng(0).permutation(40)[:33]
    shuffled = simulate_batch(*([part[number] for number in order] for part in visits(40)), sampling_rate, samples)
    assert np.array_equal(shuffled, batch[order])


def test_simulate_record_is_the_batch_of_one():
    patients, conditions, generators = visits(3)
    batch = simulate_batch(patients, conditions, generators)
    for number, patient in enumerate(patients):
        rng = np.random.default_rng((7, number, 0))
        record = simulate_record(patient, rng, visit=0)
        assert np.array_equal(record.signal, batch[number])
        found = (record.report, record.heart_rate, record.age, record.sex)
        wanted = conditions[number]
        assert found == (wanted.report, wanted.heart_rate, wanted.age, wanted.sex)


@pytest.mark.parametrize("noise", [0.0, 1.0, 5.0])
def test_limb_leads_obey_einthoven_and_goldberger_exactly(noise):
    x = dict(zip(MODEL_LEADS, simulate_batch(*visits(64), noise=noise).transpose(2, 0, 1), strict=True))
    assert np.array_equal(x["I"] + x["III"], x["II"])
    assert np.array_equal(x["aVR"], -(x["I"] + x["II"]) / 2)
    assert np.array_equal(x["aVL"], x["I"] - x["II"] / 2)
    assert np.array_equal(x["aVF"], x["II"] - x["I"] / 2)


def test_visits_are_one_patient_growing_older():
    for number in range(20):
        people, conditions, _ = zip(*(draw_visit(3, number, visit) for visit in range(4)), strict=True)
        assert all(np.array_equal(person.anatomy(), people[0].anatomy()) for person in people)
        ages = [condition.age for condition in conditions]
        assert ages == sorted(ages) and ages[0] >= round(people[0].age) and ages[-1] - ages[0] < 25
        assert len({condition.sex for condition in conditions}) == 1
    assert len({draw_visit(3, number, 0)[1].age for number in range(20)}) > 10


def test_chronic_findings_come_with_age_and_stay():
    drawn = [draw_visit(1, number, visit) for number in range(150) for visit in (0, 3)]
    told, possible, by_age = 0, 0, {True: [], False: []}
    for patient, condition, _ in drawn:
        chronic = {effect for effect in condition.effects if effect.group in CHRONIC}
        by_age[condition.age > 65].append(len(chronic))
        since = [BY_NAME[name] for start, name in patient.history if start <= condition.age - 1]
        if condition.effects[0].names[0] == "sinus rhythm" and len(since) == 1 and since[0].group != "rhythm":
            possible += 1
            told += since[0] in chronic
    assert possible > 20 and told == possible
    assert np.mean(by_age[True]) > 1.2 * np.mean(by_age[False])


def test_anatomy_is_standardised_and_shows_in_the_ecg():
    people = [Patient.draw(np.random.default_rng((0, number))) for number in range(300)]
    anatomy = np.array([person.anatomy() for person in people])
    assert anatomy.shape == (300, len(ANATOMY)) and len(set(ANATOMY)) == len(ANATOMY)
    assert np.abs(anatomy.mean(0)).max() < 0.2 and np.abs(anatomy.std(0) - 1).max() < 0.15
    conditions = [Condition.from_report("sinus rhythm", 70, 60, person.sex) for person in people]
    found = [truth(*one) for one in zip(people, conditions, strict=True)]
    generators = [np.random.default_rng(number) for number in range(300)]
    size = simulate_batch(people, conditions, generators, noise=0).std(1)
    column = dict(zip(ANATOMY, anatomy.T, strict=True))

    def correlation(name: str, values: object) -> float:
        return np.corrcoef(column[name], values)[0, 1]

    assert correlation("pr", [t.pr for t in found]) > 0.85
    assert correlation("qt", [t.qt for t in found]) > 0.75
    assert correlation("qrs_duration", [t.qrs for t in found]) > 0.6
    assert correlation("heart_z", [t.axis for t in found]) > 0.75
    assert correlation("qrs_size", np.log(size.mean(1))) > 0.6
    v1_to_v6 = [size[:, MODEL_LEADS.index(lead)] for lead in ("V1", "V3")]
    assert correlation("electrode_shift", np.log(v1_to_v6[0] / v1_to_v6[1])) > 0.25


def test_truth_is_that_of_the_generators_state():
    patient, condition, rng = draw_visit(0, 0, 0)
    asked = replace(condition, report="sinus rhythm|first degree AV block|complete left bundle branch block")
    of = [truth(patient, asked, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert of[0] == of[1] != of[2] and of[0].pr != of[2].pr and of[0].qrs != of[2].qrs
    usual = truth(patient, asked)
    assert abs(usual.pr - of[0].pr) < 40 and usual.p_present and usual.heart_rate == condition.heart_rate


def test_a_statement_has_one_effect_and_the_findings_of_the_field_have_several_wordings():
    effects = RHYTHMS + FINDINGS
    names = [normalised(name) for effect in effects for name in dict.fromkeys(map(normalised, effect.names))]
    assert len(names) == len(set(names)) == len(BY_NAME)
    assert len({effect.names[0] for effect in effects}) == len(effects)
    for effect in effects:
        assert effect.group in GROUPS and (effect.rates is not None) == (effect.group == "rhythm")
        for name in effect.names:
            assert effects_of([name]) == [effect]
    for finding in (
        "sinus rhythm", "sinus bradycardia", "sinus tachycardia", "sinus arrhythmia", "atrial fibrillation",
        "atrial flutter", "first degree AV block", "PVC(s)", "PAC(s)", "RBBB", "LBBB", "left anterior fascicular block",
        "left posterior fascicular block", "LVH", "RVH", "Anterior STEMI", "Inferior STEMI", "Lateral STEMI",
        "Old anterior infarct", "Old inferior infarct", "Old lateral infarct", "T wave inversion", "Low voltage QRS",
        "Prolonged QT", "Ventricular pacing", "Atrial pacing", "AV dual-paced rhythm",
    ):  # fmt: skip
        assert len(effects_of([finding])[0].names) >= 2, finding


def test_wordings_of_one_finding_are_one_effect_and_unknown_ones_none():
    assert effects_of(["LBBB"]) == effects_of(["complete left bundle branch block"]) != []
    assert effects_of(["Possible inferior infarct - age undetermined"]) == effects_of(
        ["inferior myocardial infarction"]
    )
    assert len(effects_of(["Sinus rhythm with 1st degree A-V block"])) == 2
    assert len(effects_of(["RBBB with left anterior fascicular block"])) == 2
    plain, unknown = leads_of("sinus rhythm"), leads_of("sinus rhythm|tall dark stranger")
    assert all(np.array_equal(plain[lead], unknown[lead]) for lead in MODEL_LEADS)


def test_drawn_visits_are_plausible_and_all_findings_occur():
    neutral = {NORMAL, *HEALTHY, *ABNORMAL, RAPID, SLOW}
    seen, pairs = set(), 0
    for number in range(2500):
        patient, condition, _ = draw_visit(0, number, number % 3)
        effects = condition.effects
        seen |= set(effects)
        assert 18 <= condition.age <= 95 and 20 <= condition.heart_rate <= 220
        groups = [effect.group for effect in effects]
        assert groups[0] == "rhythm" and len(set(groups)) == len(groups) <= 4
        for statement in condition.report.split("|"):
            parts = len(effects_of([statement]))
            assert statement in neutral or parts == 1 or (parts == 2 and " with " in statement)
            pairs += parts == 2
    assert pairs > 10
    assert {effect.names[0] for effect in RHYTHMS + FINDINGS} == {effect.names[0] for effect in seen}


def test_drawn_records_are_within_human_bounds():
    signals = simulate_batch(*visits(300))
    assert np.isfinite(signals).all() and np.abs(signals).max() < 8
    assert np.ptp(signals, axis=1).min() > 0.05


@pytest.mark.parametrize(
    ("report", "heart_rate", "age", "sex", "field"),
    [
        (" | ", 70, 60, "F", "report"),
        ("sinus rhythm", 400, 60, "F", "heart rate"),
        ("sinus rhythm", 70, 400, "F", "age"),
        ("sinus rhythm", 70, 60, "x", "sex"),
    ],
)
def test_impossible_conditions_are_refused(report, heart_rate, age, sex, field):
    with pytest.raises(ConditionError, match=field):
        Condition.from_report(report, heart_rate, age, sex)


@pytest.mark.parametrize("heart_rate", [20, 300])
@pytest.mark.parametrize(
    "report", ["sinus rhythm", "atrial fibrillation", "atrial flutter", "third degree AV block", "PVC(s)", "PAC(s)"]
)
def test_extreme_rates_still_give_an_ecg(report, heart_rate):
    leads = leads_of(report, heart_rate)
    assert all(np.isfinite(x).all() and np.ptp(x) > 0.05 for x in leads.values())


def noise_of(habits: Habits, sampling_rate: float, samples: int) -> np.ndarray:
    """What a person's habits add to an ECG, (samples, 12) in mV."""
    patient, condition, _ = draw_visit(0, 1, 0)
    patient = replace(patient, habits=habits)
    noisy, clean = (
        simulate(patient, condition, np.random.default_rng(0), sampling_rate, samples, noise).astype(float)
        for noise in (1.0, 0.0)
    )
    return noisy - clean


@pytest.mark.parametrize(("mains", "left"), [(50.0, (0.55, 0.70)), (60.0, (0.0, 0.01))])
def test_mains_hum_is_what_the_preparation_leaves_of_it(mains, left):
    hum = noise_of(Habits(wander=0, muscle=0, mains_frequency=mains, mains=0.05), 500, 5000)[:, 6:]
    spectrum = np.abs(np.fft.rfft(hum, axis=0))
    assert (spectrum.argmax(0) == 10 * mains).all()
    small = noise_of(Habits(wander=0, muscle=0, mains_frequency=mains, mains=0.05), 102.4, 1024)[:, 6:]
    middle = slice(200, 824)
    prepared = resample(hum, 500, 102.4)[middle]
    assert small[middle].std(0) == pytest.approx(prepared.std(0), rel=0.02, abs=1e-4)
    assert left[0] < preparation_gain(mains, 102.4) < left[1]


def test_noise_habits_are_the_patients():
    quiet, muscle, wander = (
        noise_of(Habits(*levels, 50.0, 0.0), 500, 5000)[:, 6:] for levels in ((0, 0), (0, 0.02), (0.05, 0))
    )
    assert np.abs(quiet).max() == 0
    spectra = [np.abs(np.fft.rfft(x, axis=0)).mean(1) ** 2 for x in (muscle, wander)]
    assert spectra[0][10:].sum() > 50 * spectra[0][:10].sum()
    assert spectra[1][:10].sum() > 50 * spectra[1][10:].sum()
    assert 0.005 < muscle.std() < 0.06 and 0.015 < wander.std() < 0.15


def test_shipped_patient_is_what_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["simulated", str(tmp_path)])
    simulated.main()
    written, shipped = (read_record(folder / "patient.hea") for folder in (tmp_path, SHIPPED))
    # another processor's exp may round one digit otherwise
    assert np.abs(written.signal - shipped.signal).max() < 0.0025
    assert (tmp_path / "patient.hea").read_text().splitlines()[-5:] == HEADER_COMMENTS
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 150_000


def test_shipped_patient_reads_as_a_record():
    record = read_record(SHIPPED / "patient.hea")
    assert record.signal.shape == (5000, 12) and record.sampling_rate == 500
    assert record.report == "normal ECG|sinus rhythm" and record.heart_rate == 68
    assert 18 <= record.age <= 95 and record.sex in "FM"
    assert heart_rate_xqrs(record.signal, 500, record.leads) == pytest.approx(68, abs=2)


def test_the_benchmark_measures_what_it_says(tmp_path):
    program = Path(__file__).resolve().parent.parent / "benchmarks" / "simulate.py"
    file = tmp_path / "simulate.csv"
    command = [sys.executable, program, "--records", "16", "--rounds", "1", "--csv", file]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["batch"] for row in rows] == ["16", "16", "16", "2", "2"]
    assert all(float(row["records_per_s"]) > 0 and row["threads"] == "1" for row in rows)
    assert run.stdout.count("records a second on one core") == len(rows)
