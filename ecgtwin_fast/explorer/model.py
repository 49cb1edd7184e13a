"""What the page asks of the model: references, twins, edits and attention, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..cli import DEMO_PATIENT
from ..data.preprocess import prepare
from ..data.ptbxl import PTBXL, ptbxl_root
from ..data.record import Record, read_record
from ..errors import ConditionError
from ..generate import Condition, ECGTwin
from ..twin_folder import measured_rate

REFERENCE = "Reference"


def ptbxl_name(ecg_id: int) -> str:
    return f"PTB-XL {ecg_id}"


@dataclass(frozen=True)
class Trace:
    """A record on the page. heart_rate: XQRS's in bpm, None where it finds no beats. similarity: cosine of its base
    vector and the patient's."""

    label: str
    record: Record
    heart_rate: float | None
    similarity: float


@dataclass(frozen=True)
class Patient:
    """A prepared reference with its base vector (256,)."""

    trace: Trace
    base_vector: Tensor

    @property
    def record(self) -> Record:
        return self.trace.record


@dataclass(frozen=True)
class Wish:
    """What a visitor asks for: the condition of the twins, how many of them, and how they are sampled."""

    condition: Condition
    count: int = 4
    steps: int = 25
    seed: int = 0


@dataclass(frozen=True)
class Findings:
    """A patient, and what was made of them: twins of one wish, and edits of those.

    seconds: of sampling and decoding what came last; measuring: of its measurements.
    """

    patient: Patient
    wish: Wish | None = None
    twins: list[Trace] = field(default_factory=list)
    edits: list[Trace] = field(default_factory=list)
    seconds: float = 0.0
    measuring: float = 0.0
    backend: str = ""

    @property
    def traces(self) -> dict[str, Trace]:
        """All records by label, the reference first."""
        return {trace.label: trace for trace in (self.patient.trace, *self.twins, *self.edits)}


class Explorer:
    """One model, loaded once, for one call at a time.

    Args: model, device: as of `ECGTwin.from_pretrained`. dtype: of the networks' arithmetic.
    """

    def __init__(self, model: str | Path = "bundled", device: str | None = None, dtype: torch.dtype = torch.float32):
        self.model, self.dtype = ECGTwin.from_pretrained(model, device), dtype
        self.ptbxl = PTBXL(root) if (root := ptbxl_root()) else None

    def warm_up(self) -> None:
        """Pay what first use costs, so that the first visitor does not."""
        patient = self.simulated_patient()
        self.generate(patient, Wish(Condition.from_reference(patient.record, "sinus rhythm"), count=1, steps=1))

    def simulated_patient(self) -> Patient:
        """The patient that comes with the package."""
        return self.patient(read_record(DEMO_PATIENT, source="simulated patient"))

    def ptbxl_patient(self, ecg_id: int) -> Patient:
        """The patient of a PTB-XL record; RecordError where there is no such ecg_id."""
        if self.ptbxl is None:
            raise ConditionError("no PTB-XL here: set ECGTWIN_PTBXL to its folder and start again")
        record = self.ptbxl.record(ecg_id)
        record.source = ptbxl_name(ecg_id)
        return self.patient(record)

    def patient(self, record: Record) -> Patient:
        """The patient of any usable record; RecordError or LeadError where it is not."""
        prepared = prepare(record)
        base_vector = self.model.base_vector(prepared)
        return Patient(Trace(REFERENCE, prepared, measured_rate(prepared), 1.0), base_vector)

    def generate(self, patient: Patient, wish: Wish) -> Findings:
        """Twins of a patient. Raises ConditionError for a condition that the model does not take."""
        done = self.model.sample(
            patient.base_vector,
            wish.condition,
            count=wish.count,
            steps=wish.steps,
            seed=wish.seed,
            dtype=self.dtype,
        )
        began = time.perf_counter()
        twins = [
            self._measured(f"Twin {number}", record, patient) for number, record in enumerate(done.records, start=1)
        ]
        return Findings(patient, wish, twins, [], done.seconds, time.perf_counter() - began, done.backend)

    def edit(self, findings: Findings, twin: int, change: str, text: str, weight: float, threshold: int) -> Findings:
        """The findings with one more edit, of the twin of that number (from 1).

        change: "add" a statement with this weight, or "swap" the report. Raises ConditionError as `ECGTwin.edit`.
        """
        if not 1 <= twin <= len(findings.twins):
            raise ConditionError(f"there is no twin {twin} to edit among {len(findings.twins)}: generate it first")
        if not text.strip():
            raise ConditionError("the edit is empty: write the statement to add or the report to swap in")
        wish, patient = findings.wish, findings.patient
        done = self.model.edit(
            patient.base_vector,
            wish.condition.report,
            **{change: text},
            weight=weight,
            threshold=threshold,
            heart_rate=wish.condition.heart_rate,
            age=wish.condition.age,
            sex=wish.condition.sex,
            steps=wish.steps,
            seed=wish.seed,
            first_index=twin - 1,
            dtype=self.dtype,
        )
        began = time.perf_counter()
        what = f"×{weight:g}" if change == "add" else "swap"
        label = f"Edit {len(findings.edits) + 1} (twin {twin}, {what})"
        edited = self._measured(label, done.edits[0][0], patient)
        return replace(
            findings,
            edits=[*findings.edits, edited],
            seconds=done.seconds,
            measuring=time.perf_counter() - began,
            backend=done.backend,
        )

    def attention(self, trace: Trace, patient: Patient) -> list[tuple[str, list[float]]]:
        """Each statement of a record's report, with how much each 80 ms of the ECG attends to it (128 numbers).

        Raises ConditionError for a record without report, age or sex.
        """
        record = trace.record
        if None in (record.report, record.age, record.sex):
            raise ConditionError(f"{record.name}: attention needs its report, age and sex")
        seen = self.model.attention(record, patient.base_vector)
        return list(zip(seen.statements, seen.weights.tolist(), strict=True))

    def _measured(self, label: str, record: Record, patient: Patient) -> Trace:
        similarity = torch.cosine_similarity(self.model.base_vector(record), patient.base_vector, dim=0)
        return Trace(label, record, measured_rate(record), float(similarity))
