"""Data sets as lists of records that are not read yet."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import RecordError
from .arrays import Window
from .ptbxl import PTBXL
from .ptbxl_table import row_fields
from .record import Record
from .simulated import Patient, simulate_record
from .wfdb_files import read_wfdb

PTBXL_TEST_FOLD = 10
_SPLIT_KEY = b"ecgtwin_fast test fold"
_PATIENT_FOLDER = re.compile(r"(patient|subject|p)[ _-]?\d+", re.IGNORECASE)
_PATIENT_COMMENT = re.compile(r"<?\s*(?:patient|subject)(?:[ _-]?id)?\s*>?\s*:\s*(\S.*?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Loaded:
    """A record as the data set has it, with its patient, time (None where unknown) and fold."""

    record: Record
    patient: str
    time: np.datetime64 | None
    test: bool
    real: bool = True


class Listed(Protocol):
    """A record that a data set lists: `name` is its path inside the data set."""

    name: str

    def load(self) -> Loaded:
        """Read it. Raises RecordError where that fails."""
        ...


class Source(Protocol):
    """A data set of `len(source)` records in a fixed order."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str: ...

    def __getitem__(self, number: int) -> Listed: ...


def in_test_fold(patient: str, share: float) -> bool:
    """Whether a patient is of the test fold: drawn by a keyed hash of the name, so it depends on no other patient."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8, key=_SPLIT_KEY).digest()
    return int.from_bytes(digest, "little") < share * 2.0**64


@dataclass(frozen=True)
class TableRecord:
    """A WFDB record of which a table knows patient, time and fold; `fields` of Record come before the file's."""

    name: str
    path: Path
    patient: str
    time: np.datetime64 | None
    test: bool
    fields: dict = field(default_factory=dict)

    def load(self) -> Loaded:
        record = Record(**(read_wfdb(self.path, Window()) | self.fields | {"source": self.name}))
        return Loaded(record, self.patient, self.time, self.test)


class PTBXLSource:
    """PTB-XL's 500 Hz records; the test fold is the published one, 10."""

    def __init__(self, root: str | Path):
        self._data = PTBXL(root)
        self._rows = list(self._data.rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._rows[number].filename_hr

    def __getitem__(self, number: int) -> TableRecord:
        row = self._rows[number]
        return TableRecord(
            name=row.filename_hr,
            path=self._data.path(row.ecg_id),
            patient=str(row.patient_id),
            time=parse_time(row.recording_date),
            test=row.strat_fold == PTBXL_TEST_FOLD,
            fields=row_fields(row),
        )


@dataclass(frozen=True)
class FolderRecord:
    """A WFDB record of which only its own header and its place in the tree are known."""

    name: str
    path: Path
    patient_from: str
    test_share: float

    def load(self) -> Loaded:
        import wfdb

        record = Record(source=self.name, **read_wfdb(self.path, Window()))
        header = wfdb.rdheader(str(self.path))
        patient = self._patient(header.comments)
        time = header.base_datetime
        return Loaded(
            record, patient, None if time is None else np.datetime64(time, "s"), in_test_fold(patient, self.test_share)
        )

    def _patient(self, comments: Sequence[str]) -> str:
        place = Path(self.name)
        if self.patient_from == "record":
            return self.name
        if self.patient_from == "folder":
            return place.parent.as_posix()
        stated = [match[1] for match in map(_PATIENT_COMMENT.fullmatch, comments) if match]
        folders = [folder.as_posix() for folder in place.parents if _PATIENT_FOLDER.fullmatch(folder.name)]
        return (stated + folders + [self.name])[0]


class FolderSource:
    """All WFDB headers under a folder, in order of their paths; links to folders are not followed.

    patient_from: 'folder', 'record', or 'auto': what a comment 'Patient: ...' says, else the nearest folder with a
    name such as patient001 or p10000032, else the record itself.
    """

    def __init__(self, root: str | Path, patient_from: str, test_share: float):
        self._root = Path(root)
        self._patient_from, self._test_share = patient_from, test_share
        self._names = sorted(_headers(self._root))
        if not self._names:
            raise RecordError(f"{root}: no WFDB header (.hea) in this folder or below")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        return self._names[number]

    def __getitem__(self, number: int) -> FolderRecord:
        name = self._names[number]
        return FolderRecord(name, self._root / name, self._patient_from, self._test_share)


@dataclass(frozen=True)
class SimulatedRecord:
    """A visit of a simulated patient, drawn from (seed, patient, visit)."""

    name: str
    seed: int
    patient: int
    visit: int
    test_share: float

    def load(self) -> Loaded:
        patient = Patient.draw(np.random.default_rng((self.seed, self.patient)))
        rng = np.random.default_rng((self.seed, self.patient, self.visit))
        record = simulate_record(patient, rng, visit=self.visit)
        record.source = self.name
        name = str(self.patient)
        return Loaded(record, name, None, in_test_fold(name, self.test_share), real=False)


class SimulatedSource:
    """Simulated patients, visit after visit."""

    def __init__(self, patients: int, visits: int, seed: int, test_share: float):
        self._patients, self._visits, self._seed, self._test_share = patients, visits, seed, test_share

    def __len__(self) -> int:
        return self._patients * self._visits

    def name(self, number: int) -> str:
        patient, visit = divmod(number, self._visits)
        return f"patient-{patient}/visit-{visit}"

    def __getitem__(self, number: int) -> SimulatedRecord:
        return SimulatedRecord(self.name(number), self._seed, *divmod(number, self._visits), self._test_share)


class Limited:
    """The first records of a source."""

    def __init__(self, source: Source, limit: int):
        self._source, self._limit = source, limit

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def name(self, number: int) -> str:
        return self._source.name(number)

    def __getitem__(self, number: int) -> Listed:
        return self._source[number]


def parse_time(text: str | None) -> np.datetime64 | None:
    """A time from 'YYYY-MM-DD HH:MM:SS'; None from anything else."""
    try:
        time = np.datetime64((text or "").strip() or "NaT", "s")
    except ValueError:
        return None
    return None if np.isnat(time) else time


def _headers(root: Path):
    for folder, _, files in os.walk(root):
        for name in files:
            if name.endswith(".hea"):
                yield (Path(folder) / name).relative_to(root).with_suffix("").as_posix()
