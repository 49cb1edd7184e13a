"""Plans, references and a stand-in for the model, for tests of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tiny_model import patient, write_tiny_model

from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.record import Record, write_wfdb
from ecgtwin_fast.dataset.engine import LocalEngine
from ecgtwin_fast.dataset.items import Facts
from ecgtwin_fast.dataset.plan import Plan, read_plan
from ecgtwin_fast.dataset.run import Summary, make_dataset

PLAN = """\
references: {{wfdb: {references}}}
conditions:
  - {{report: "sinus rhythm"}}
  - {{report: "atrial fibrillation|rapid ventricular response", heart_rate: 130}}
twins: {twins}
seed: {seed}
model: {model}
steps: 2
batch_size: {batch_size}
output: {{format: {form}, records_per_shard: {per_shard}}}
"""


def write_references(folder: Path, count: int) -> Path:
    """WFDB records ref-0, ref-1 and so on, each another patient."""
    own = prepare(patient())
    rng = np.random.default_rng(5)
    for number in range(count):
        signal = own.signal * rng.uniform(0.7, 1.3, 12).astype(np.float32)
        record = Record(signal, own.sampling_rate, own.leads, 40.0 + number, "FM"[number % 2], own.report, 70.0)
        write_wfdb(record, folder, f"ref-{number}")
    return folder


class Setting:
    """A folder with a tiny model, reference records, and plans."""

    def __init__(self, folder: Path, references: int = 3):
        self.folder = folder
        self.model = write_tiny_model(folder / "model")
        self.references = write_references(folder / "references", references)

    def write_plan(
        self, name: str = "plan.yaml", twins: int = 4, seed: int = 7, batch_size: int = 5, form: str = "parquet",
        per_shard: int = 7,
    ) -> Path:  # fmt: skip
        path = self.folder / name
        values = {"twins": twins, "seed": seed, "batch_size": batch_size, "form": form, "per_shard": per_shard}
        path.write_text(PLAN.format(references=self.references, model=self.model, **values), encoding="utf-8")
        return path

    def plan(self, **values) -> Plan:
        return read_plan(self.write_plan(**values))


def make(plan: Plan, out: Path, compute=None, **options) -> Summary:
    """The plan's data set by the local engine."""
    return make_dataset(plan, out, lambda job, log: LocalEngine(job, compute=compute), **options)


class StandIn:
    """In the model's place: record i is noise drawn from i.

    change: called with the index of each record and its signal, which it may change, and may raise.
    """

    def __init__(self, change: Callable[[int, np.ndarray], None] | None = None, backend: str = "cpu"):
        self.facts = Facts(7, "dpmpp", 2, "stand-in", "0" * 16, backend, "float32")
        self._change = change
        self.batches: list[tuple[int, int]] = []

    def base_vector(self, record: Record) -> torch.Tensor:
        return torch.from_numpy(record.signal[:32, 0].copy())

    def check(self, condition) -> None:
        pass

    def signals(self, bases, conditions, first_index, progress):
        self.batches.append((first_index, len(conditions)))
        made = []
        for index in range(first_index, first_index + len(conditions)):
            progress(index - first_index + 1, len(conditions))
            signal = np.random.default_rng(index).normal(size=(1024, 12)).astype(np.float32)
            if self._change:
                self._change(index, signal)
            made.append(signal)
        return np.stack(made)


def content(out: Path) -> dict[str, bytes]:
    """Every file of a data set but those of run/."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    names = {path: path.relative_to(out).as_posix() for path in files}
    return {name: path.read_bytes() for path, name in names.items() if not name.startswith("run/")}


def records(out: Path) -> dict[str, bytes]:
    """The files that hold records."""
    return {name: data for name, data in content(out).items() if name.startswith(("data/", "records/"))}
