"""The reference records of a plan, each read and prepared when it is asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import RecordError

if TYPE_CHECKING:
    from ..data.record import Record
    from ..data.sources import Source
    from .plan import Plan, ReferencePlan

FOLDS = ("all", "test", "training")
TEST_SHARE = 0.0
"""Of sources that draw a test fold: plans take folds only where the data set has its own."""


class References(Protocol):
    """Reference records in a fixed order, `len(references)` of them.

    digest: hexadecimal, of what decides the records; the same wherever the data lie.
    """

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """What the data set calls the record."""
        ...

    def load(self, number: int) -> tuple[Record, str]:
        """The prepared record, (1024, 12) in mV at 102.4 Hz, and its patient's name.

        Raises RecordError or OSError where it cannot be read or used.
        """
        ...


def open_references(plan: Plan) -> References:
    """The references of a plan.

    Raises:
        RecordError, StoreError: the store or folder is missing, not readable, damaged, or holds no such record.
    """
    return open_source(plan.references)


def open_source(wanted: ReferencePlan) -> References:
    """What `open_references` gives, of this part of a plan."""
    if wanted.path is not None:
        _check_folder(Path(wanted.path))
    references = StoreReferences(wanted) if wanted.kind == "store" else SourceReferences(wanted)
    if not len(references):
        of_fold = "" if wanted.fold == "all" else f" in fold {wanted.fold!r}"
        raise RecordError(f"{wanted.path}: holds no record{of_fold}")
    return references


class StoreReferences:
    """Records of a store that `ecgtwin-fast prepare` made."""

    def __init__(self, wanted: ReferencePlan):
        from ..data.store import Store

        self._store = Store(wanted.path)
        self._rows = _chosen(self._store.test, wanted)
        self.digest = self._store.digest

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._store.name(self._rows[number])

    def load(self, number: int) -> tuple[Record, str]:
        row = self._rows[number]
        return self._store.record(row), self._patients[int(row)].as_py()

    @cached_property
    def _patients(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        from ..data.store import manifest
        from ..data.store_format import shard_name

        path = self._store.path
        shards = [path / shard_name(number) for number in range(manifest(path)["shards"])]
        columns = [pq.read_table(shard, columns=["patient"], partitioning=None)["patient"] for shard in shards]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks])


class SourceReferences:
    """Records of a data set in its own layout, or simulated ones."""

    def __init__(self, wanted: ReferencePlan):
        self._wanted = wanted
        self._source, self._tables = _source(wanted)
        if wanted.fold == "all":
            self._rows: Sequence[int] = range(len(self._source))[: wanted.limit]
        else:
            self._rows = _chosen(np.array([self._source[row].test for row in range(len(self._source))], bool), wanted)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._source.name(self._rows[number])

    def load(self, number: int) -> tuple[Record, str]:
        from ..data.preprocess import prepare

        loaded = self._source[self._rows[number]].load()
        return prepare(loaded.record), loaded.patient

    @cached_property
    def digest(self) -> str:
        """BLAKE2b of the tables' content and of the names of the records with the sizes of their headers; of
        simulated patients, of their parameters and of what the first looks like, in case the simulation has changed."""
        digest = hashlib.blake2b(self._wanted.kind.encode(), digest_size=32)
        if self._wanted.kind == "simulated":
            first = self._source[0].load().record
            sizes = " ".join(f"{size:.2f}" for size in first.signal.std(0))
            digest.update(f" {len(self)} seed {self._wanted.seed}: {first.report}, {sizes} mV".encode())
            return digest.hexdigest()
        for table in self._tables:
            with open(table, "rb") as file:
                digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        for row in self._rows:
            record = self._source[row]
            line = f"{record.name}\t{_size(Path(f'{record.path}.hea'))}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _source(wanted: ReferencePlan) -> tuple[Source, list[Path]]:
    """The data set, and the tables that it has beside the records."""
    from ..data.sources import FolderSource, PTBXLSource, SimulatedSource

    if wanted.kind == "simulated":
        return SimulatedSource(wanted.simulated, 1, wanted.seed, TEST_SHARE), []
    root = Path(wanted.path)
    if wanted.kind == "wfdb":
        return FolderSource(root, "auto", TEST_SHARE), []
    if wanted.kind == "ptb-xl":
        from ..data.ptbxl_table import DATABASE, STATEMENTS, find_root

        source = PTBXLSource(root)
        return source, [find_root(root) / name for name in (DATABASE, STATEMENTS)]
    from ..data.mimic import MEASUREMENTS, RECORD_LIST, MIMICSource

    patients = patients_table(wanted)
    source = MIMICSource(root, patients, TEST_SHARE, without_patients=True)
    return source, [root / RECORD_LIST, root / MEASUREMENTS, *filter(None, [patients])]


def patients_table(wanted: ReferencePlan) -> Path | None:
    """MIMIC-IV's table of patients, given or found beside the records; None where there is none."""
    from ..data.mimic import PATIENTS

    if wanted.patients is not None:
        return Path(wanted.patients)
    return next((path for name in PATIENTS if (path := Path(wanted.path) / name).is_file()), None)


def _chosen(test: np.ndarray, wanted: ReferencePlan) -> np.ndarray:
    """The rows of the fold, of which `test` (N,) says which are the test fold's, up to the limit."""
    rows = np.arange(len(test)) if wanted.fold == "all" else np.flatnonzero(test == (wanted.fold == "test"))
    return rows[: wanted.limit]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise RecordError(f"{path}: {'is a file, expected a folder' if path.exists() else 'no such folder'}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise RecordError(f"{path}: no permission to read this folder")
