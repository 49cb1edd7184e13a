"""Reading a store: conditions of all records in memory, signals from a memory map."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..errors import StoreError
from .condition import patient_vectors
from .entry import signal_hash
from .leads import MODEL_LEADS
from .lock import locked
from .preprocess import SAMPLES, SAMPLING_RATE
from .record import Record
from .store_format import (
    CACHE,
    CONDITIONS,
    FIELDS,
    LEADS,
    MANIFEST,
    STATEMENTS,
    UNFINISHED,
    VERSION,
    shard_name,
)


class Store:
    """A data set prepared for training: N records under conditions, P people, S distinct statements.

    A store is a folder that `ecgtwin-fast prepare` or a StoreWriter fills: `store.json` (present when complete),
    `records-*.parquet`, `statements.parquet`, `rejected.parquet`, and `cache/`, which may be deleted.

    Attributes:
        kind, options, text_encoder, text_width: how it was made. rejected: number of records for each reason.
        digest: of the content; keys caches of what is computed from it.
        person: (N,) int64, 0..P-1 in order of first appearance. time: (N,) datetime64[s], NaT where unknown.
        age, heart_rate: (N,) float32 in years (NaN where unknown) and bpm. sex: (N,) float32, 0 F, 1 M, NaN unknown.
        real, target, test: (N,) bool: not simulated; may be the second of a pair; of a patient in the test fold.
        signal_hash: (N,) int64, equal where signals are equal. report_key: (N,) int64, equal where reports are.
        tokens: (N, T) int32 rows of `embeddings`, 0 is padding. statements: their texts, statements[0] is "".
        embeddings: (S + 1, text_width) float32, row 0 is zero.
        patient: (N, 3) float32 patient vectors; an unknown age stands at the mean, 0, an unknown sex at 0.5.

    Raises:
        StoreError: there is no store at `path`, or an unfinished, damaged one, or one of another version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        content = manifest(self.path)
        self.kind: str = content["kind"]
        self.options: dict = content["options"]
        self.text_encoder: str = content["text_encoder"]
        self.text_width: int = content["text_width"]
        self.rejected: dict[str, int] = content["rejected"]
        self.digest: str = content["digest"]
        self._shards = [self.path / shard_name(number) for number in range(content["shards"])]
        self._read_statements(content["statements"])
        tables = [_read(shard, CONDITIONS.names) for shard in self._shards]
        self._sizes = [len(table) for table in tables]
        if sum(self._sizes) != content["records"]:
            raise StoreError(f"{self.path}: holds {sum(self._sizes)} records, {MANIFEST} says {content['records']}")
        self._take(pa.concat_tables(tables).combine_chunks())

    def __len__(self) -> int:
        return len(self.person)

    def rows(self, test: bool) -> np.ndarray:
        """int64 indices of the records in the test fold, or of all others."""
        return np.flatnonzero(self.test == test)

    def signals(self, index) -> np.ndarray:
        """Signals float32 (B, 1024, 12) in mV of B records; the first call builds the memory map in `cache/`.

        Raises StoreError where a shard is damaged.
        """
        index = np.atleast_1d(np.asarray(index))
        return self._digital[index] * self._millivolt[index, None, None]

    def condition(self, index, embeddings: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Condition of B records, float32: text (B, T, text_width), mask (B, T) of ones and zeros, patient (B, 3).

        T is the longest report among them; shorter ones are padded with row 0. embeddings: in place of the store's own,
        a row for each of its statements; the store's row 0 is zeros.
        """
        index = np.atleast_1d(np.asarray(index))
        tokens = self.tokens[index]
        tokens = tokens[:, : max(1, int((tokens > 0).sum(1).max(initial=0)))]
        text = (self.embeddings if embeddings is None else embeddings)[tokens]
        return text, (tokens > 0).astype(np.float32), self.patient[index]

    def name(self, row: int) -> str:
        """What the data set calls the record."""
        return self._names[int(row)].as_py()

    def report(self, row: int) -> str:
        """The record's statements joined by '|'."""
        return "|".join(self.statements[token] for token in self.tokens[row] if token)

    def record(self, row: int) -> Record:
        """The prepared record: (1024, 12) in mV at 102.4 Hz, with its condition as far as known."""
        return Record(
            signal=self.signals(row)[0],
            sampling_rate=SAMPLING_RATE,
            leads=MODEL_LEADS,
            age=None if np.isnan(self.age[row]) else float(self.age[row]),
            sex=None if np.isnan(self.sex[row]) else "FM"[int(self.sex[row])],
            report=self.report(row),
            heart_rate=float(self.heart_rate[row]),
            source=self.name(row),
        )

    @cached_property
    def report_key(self) -> np.ndarray:
        return labels(*self.tokens.T)

    def _read_statements(self, count: int) -> None:
        path = self.path / STATEMENTS
        table = _read(path, ["text", "embedding"])
        if len(table) != count:
            raise StoreError(f"{path}: holds {len(table)} statements, {MANIFEST} says {count}")
        self.statements: list[str] = ["", *table["text"].to_pylist()]
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(count, self.text_width)
        self.embeddings = np.concatenate([np.zeros((1, self.text_width), np.float32), vectors])

    def _take(self, table: pa.Table) -> None:
        self._names = table["name"]
        self.person = table["patient"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        self.time = table["time"].to_numpy().astype("datetime64[s]")
        self.age, self.heart_rate, gain = (table[name].to_numpy() for name in ("age", "heart_rate", "gain"))
        sex = table["sex"].to_numpy()
        self.sex = np.select([sex == "F", sex == "M"], [np.float32(0), np.float32(1)], np.float32(np.nan))
        self.real, self.target, self.test = (table[name].to_numpy() for name in ("real", "target", "test"))
        self.signal_hash = table["signal_hash"].to_numpy()
        self._millivolt = 1 / gain
        self.tokens = _padded(table["statements"].combine_chunks())
        self.patient = patient_vectors(self.heart_rate, self.age, self.sex)

    @cached_property
    def _digital(self) -> np.ndarray:
        path = self.path / CACHE / f"signals-{self.digest[:16]}.npy"
        path.parent.mkdir(exist_ok=True)
        with locked(path.parent / "lock"):
            if not path.exists():
                self._build_map(path)
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: damaged ({error}): delete it, and it is built again") from error

    def _build_map(self, path: Path) -> None:
        temporary = path.with_suffix(".new")
        shape = (len(self), SAMPLES, LEADS)
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.int16, shape=shape)
        row = 0
        with tqdm(desc="memory map of the signals", total=len(self), unit="record") as bar:
            for shard, size in zip(self._shards, self._sizes, strict=True):
                table = _read(shard, ["signal", "gain"])
                signals = table["signal"].combine_chunks().flatten().to_numpy().reshape(size, SAMPLES, LEADS)
                for signal, gain in zip(signals, table["gain"].to_numpy(), strict=True):
                    if signal_hash(signal, gain) != self.signal_hash[row]:
                        raise StoreError(f"{shard}: damaged, the signal of {self.name(row)} is not the one written")
                    mapped[row] = signal
                    row += 1
                bar.update(size)
        mapped.flush()
        os.replace(temporary, path)


def is_complete(path: str | Path) -> bool:
    """Whether `path` holds a finished store."""
    return (Path(path) / MANIFEST).is_file()


def manifest(path: Path) -> dict:
    """Content of a complete store's store.json; StoreError where there is none, or one of another version."""
    file = path / MANIFEST
    if not is_complete(path):
        state = "holds an unfinished store: call the same prepare again" if (path / UNFINISHED).is_dir() else "no store"
        raise StoreError(f"{path}: {state} ({MANIFEST} is missing)")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version, missing = content["version"], FIELDS - set(content)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: damaged: {error!r}") from error
    if version != VERSION:
        raise StoreError(f"{file}: version {version}, this release reads version {VERSION}: prepare the data again")
    if missing:
        raise StoreError(f"{file}: damaged: {', '.join(sorted(missing))} missing")
    return content


def labels(*columns: np.ndarray) -> np.ndarray:
    """(N,) int64 from 0 up, equal where all columns (N,) are equal."""
    label = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, part = np.unique(column, return_inverse=True)
        label = np.unique(label * len(values) + part, return_inverse=True)[1]
    return label


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        # partitioning=None: a folder called 'a=b' above the store is no column of it.
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"{path}: not readable as Parquet (missing, truncated or damaged?): {reason}") from error


def _padded(lists: pa.ListArray) -> np.ndarray:
    lengths = np.diff(lists.offsets.to_numpy())
    tokens = np.zeros((len(lists), int(lengths.max(initial=1))), np.int32)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = lists.flatten().to_numpy()
    return tokens
