"""A miniature MIMIC-IV-ECG in its exact layout: `python python_tests/mimic_tree.py OUT [--patients N]`."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import wfdb

from ecgtwin_fast.data.leads import MODEL_LEADS, select_leads
from ecgtwin_fast.data.ptbxl import PTBXL
from ecgtwin_fast.data.record import Record
from ecgtwin_fast.data.simulated import Patient, simulate_record

UNITS_PER_MILLIVOLT = 200
FIRST_SUBJECT, FIRST_STUDY = 10_000_032, 40_689_238
REPORTS = [f"report_{number}" for number in range(18)]
LIST_COLUMNS = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
MEASUREMENT_COLUMNS = [
    *("subject_id", "study_id", "cart_id", "ecg_time", *REPORTS, "bandwidth", "filtering", "rr_interval", "p_onset"),
    *("p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"),
]
PATIENT_COLUMNS = ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]


@dataclass
class Study:
    """One ECG of the tree: `record` at 500 Hz with report, and the machine's RR interval in ms."""

    subject: int
    study: int
    time: datetime
    record: Record
    rr_interval: int

    @property
    def path(self) -> str:
        return f"files/p{self.subject // 10_000}/p{self.subject}/s{self.study}/{self.study}"


@dataclass
class Person:
    subject: int
    gender: str
    anchor_age: int
    anchor_year: int


def simulated_people(count: int, visits: int = 3, seed: int = 0) -> list[list[Record]]:
    """Records of simulated patients at 500 Hz, those of one patient together."""
    rng = np.random.default_rng(seed)
    patients = [Patient.draw(rng) for _ in range(count)]
    return [
        [simulate_record(patient, rng, sampling_rate=500, samples=5000) for _ in range(visits)] for patient in patients
    ]


def ptbxl_people(data: PTBXL, count: int) -> list[list[Record]]:
    """Records of the first PTB-XL patients of known age who have more than one."""
    several = [ids for ids in data.patients().values() if len(ids) > 1 and all(data.row(i).age for i in ids)]
    return [[data.record(ecg_id) for ecg_id in ids] for ids in several[:count]]


def write_tree(root: Path, people: Iterable[Sequence[Record]]) -> tuple[list[Study], list[Person]]:
    """Write the tree and its tables; a person's records lie a year apart, and the age is that of the first."""
    studies, persons = [], []
    for number, records in enumerate(people):
        subject, start = FIRST_SUBJECT + 1_000 * number, datetime(2150 + number, 3, 14, 9, 26, 53)
        persons.append(Person(subject, records[0].sex, int(records[0].age) - 1, start.year - 1))
        for visit, record in enumerate(records):
            rr_interval = 65535 if record.heart_rate is None else round(60_000 / record.heart_rate)
            time = start + timedelta(days=365 * visit)
            studies.append(Study(subject, FIRST_STUDY + len(studies), time, record, rr_interval))
    for study in studies:
        write_waveform(root, study)
    write_tables(root, studies, persons)
    return studies, persons


def write_waveform(root: Path, study: Study) -> None:
    folder = root / Path(study.path).parent
    folder.mkdir(parents=True, exist_ok=True)
    signal, leads = select_leads(study.record.signal, study.record.leads)
    assert leads == MODEL_LEADS and study.record.sampling_rate == 500
    wfdb.wrsamp(
        str(study.study),
        fs=500,
        units=["mV"] * 12,
        sig_name=list(leads),
        d_signal=np.round(signal * UNITS_PER_MILLIVOLT).astype(np.int16),
        fmt=["16"] * 12,
        adc_gain=[float(UNITS_PER_MILLIVOLT)] * 12,
        baseline=[0] * 12,
        base_time=study.time.time(),
        base_date=study.time.date(),
        comments=[f"<subject_id>: {study.subject}"],
        write_dir=str(folder),
    )


def write_tables(root: Path, studies: Sequence[Study], persons: Sequence[Person]) -> None:
    listed, measured = [], []
    for study in studies:
        first = [study.subject, study.study]
        listed.append([*first, study.study, study.time, study.path])
        statements = (study.record.report or "").split("|")
        reports = statements + [""] * (len(REPORTS) - len(statements))
        waves = [40, 150, 190, 290, 29999, 50, 20, 40]
        measured.append(
            [*first, 6848296, study.time, *reports, "0.005-150 Hz", "60 Hz notch", study.rr_interval, *waves]
        )
    people = [[p.subject, p.gender, p.anchor_age, p.anchor_year, "2014 - 2016", ""] for p in persons]
    write_table(root / "record_list.csv", LIST_COLUMNS, listed)
    write_table(root / "machine_measurements.csv", MEASUREMENT_COLUMNS, measured)
    write_table(root / "hosp" / "patients.csv", PATIENT_COLUMNS, people)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--visits", type=int, default=3, help="of a simulated patient")
    parser.add_argument("--ptb-xl", type=Path, help="take the records of PTB-XL instead of simulated ones")
    given = parser.parse_args()
    if given.ptb_xl:
        people = ptbxl_people(PTBXL(given.ptb_xl), given.patients)
    else:
        people = simulated_people(given.patients, given.visits)
    studies, persons = write_tree(given.out, people)
    print(f"{len(studies)} records of {len(persons)} patients in {given.out}")


if __name__ == "__main__":
    main()
