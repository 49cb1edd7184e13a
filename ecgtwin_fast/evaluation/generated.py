"""Reading generated ECGs: a folder of twins (WFDB), a Parquet data set or a store, linked to the real records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.comments import parse_comments
from ..data.preprocess import SAMPLES, prepare
from ..data.record import Record, read_record
from ..data.store import Store, is_complete
from ..data.store_format import LEADS, shard_name
from ..errors import ECGTwinError, RecordError
from .ecgs import UNKNOWN, Ecgs

SHARDS = "data/shard-*.parquet"
_COLUMNS = ["reference", "patient", "report", "heart_rate", "age", "sex", "gain", "signal"]
_REFERENCE, _PATIENT = "Reference:", "Patient:"


class Linkage:
    """Persons and rows of a store of real ECGs by the names that generated ones give of their references."""

    def __init__(self, store: Store):
        self._person = dict(zip(_patients(store), store.person.tolist(), strict=True))
        self._row = {_stem(store.name(row)): row for row in range(len(store))}
        self._person_of_row = store.person

    def find(self, reference: str | None, patient: str | None) -> tuple[int, int]:
        """Person and row of the reference, each UNKNOWN where the store has none of that name."""
        row = next((self._row[name] for name in _tails(reference or "") if name in self._row), UNKNOWN)
        if row != UNKNOWN:
            return int(self._person_of_row[row]), row
        return self._person.get(patient or "", UNKNOWN), row


def read_generated(
    path: str | Path, name: str, linkage: Linkage, count: int, seed: int
) -> tuple[Ecgs, list[str]]:
    """At most `count` of the generated ECGs at `path`, drawn at random, and notes on what could not be read.

    path: a folder of twins as `ecgtwin-fast generate` writes them, several of these below one folder, a Parquet data
    set (data/shard-*.parquet), or a store. Raises ECGTwinError where there are none.
    """
    path = Path(path)
    if is_complete(path):
        found, notes = _of_store(path, name, linkage, count, seed), []
    elif any(path.glob(SHARDS)):
        found, notes = _of_parquet(path, name, linkage, count, seed), []
    else:
        found, notes = _of_folder(path, name, linkage, count, seed)
    if (found.person == UNKNOWN).all():
        notes.append(f"{name}: names no patient of the real store: identity, which needs them, is left out")
    return found, notes


def _drawn(total: int, count: int, seed: int) -> np.ndarray:
    """Sorted numbers of `count` of `total`."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def _of_store(path: Path, name: str, linkage: Linkage, count: int, seed: int) -> Ecgs:
    store = Store(path)
    rows = _drawn(len(store), count, seed)
    patients = _patients(store)
    links = [linkage.find(store.name(row), patients[row]) for row in rows]
    person, reference = np.array(links).reshape(-1, 2).T
    return replace(
        Ecgs.of_store(store, rows, name), person=person, reference=reference, target=np.full(len(rows), UNKNOWN)
    )


def _of_parquet(path: Path, name: str, linkage: Linkage, count: int, seed: int) -> Ecgs:
    shards = sorted(path.glob(SHARDS))
    try:
        sizes = [pq.ParquetFile(shard).metadata.num_rows for shard in shards]
        rows = _drawn(sum(sizes), count, seed)
        tables, first = [], 0
        for shard, size in zip(shards, sizes, strict=True):
            own = rows[(rows >= first) & (rows < first + size)] - first
            if len(own):
                tables.append(pq.read_table(shard, columns=_COLUMNS, partitioning=None).take(own))
            first += size
    except (OSError, pa.ArrowException) as error:
        raise ECGTwinError(f"{path}: not readable as a data set of generated ECGs: {error}") from error
    if not tables:
        raise ECGTwinError(f"{path}: holds no generated ECG")
    table = pa.concat_tables(tables).combine_chunks()
    digital = table["signal"].combine_chunks().flatten().to_numpy().reshape(len(table), SAMPLES, LEADS)
    columns = {key: table[key].to_pylist() for key in ("reference", "patient", "report", "sex")}
    links = [linkage.find(*names) for names in zip(columns["reference"], columns["patient"], strict=True)]
    person, reference = np.array(links).T
    return Ecgs(
        name=name,
        signals=digital / table["gain"].to_numpy().astype(np.float32)[:, None, None],
        reports=np.array(columns["report"], dtype=object),
        heart_rate=table["heart_rate"].to_numpy().astype(np.float64),
        age=table["age"].to_numpy().astype(np.float64),
        sex=np.array([_sex_number(sex) for sex in columns["sex"]]),
        person=person,
        reference=reference,
        target=np.full(len(table), UNKNOWN),
    )


def _of_folder(path: Path, name: str, linkage: Linkage, count: int, seed: int) -> tuple[Ecgs, list[str]]:
    headers = sorted(path.rglob("*.hea"))
    if not headers:
        raise ECGTwinError(
            f"{path}: expected generated ECGs: WFDB records (.hea) as `ecgtwin-fast generate` writes them, a data set "
            f"({SHARDS}) or a store"
        )
    records: list[Record] = []
    links, defects = [], Counter()
    for index in _drawn(len(headers), count, seed):
        comments = list(_comments(headers[index]))
        try:
            if "report" not in parse_comments(comments):
                raise RecordError(f"{headers[index]}: states no report", "no report in its comments")
            records.append(prepare(read_record(headers[index])))
        except ECGTwinError as error:
            defects[error.reason] += 1
        else:
            links.append(linkage.find(_stated(comments, _REFERENCE), _stated(comments, _PATIENT)))
    if not records:
        raise ECGTwinError(f"{path}: none of {len(headers)} records can be used ({_listed(defects)})")
    person, reference = np.array(links).T
    ecgs = Ecgs(
        name=name,
        signals=np.stack([record.signal for record in records]),
        reports=np.array([record.report for record in records], dtype=object),
        heart_rate=np.array([record.heart_rate for record in records], dtype=np.float64),
        age=np.array([record.age for record in records], dtype=np.float64),
        sex=np.array([_sex_number(record.sex) for record in records]),
        person=person,
        reference=reference,
        target=np.full(len(records), UNKNOWN),
    )
    left_out = f"{name}: {sum(defects.values())} records cannot be used and do not count ({_listed(defects)})"
    return ecgs, [left_out] if defects else []


def _comments(header: Path) -> Iterator[str]:
    for line in header.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#"):
            yield line.lstrip("# ")


def _stated(comments: list[str], field: str) -> str | None:
    return next((line[len(field) :].strip() for line in comments if line.startswith(field)), None)


def _listed(defects: Counter) -> str:
    return ", ".join(f"{reason}: {number}" for reason, number in defects.most_common())


def _sex_number(sex: str | None) -> float:
    return {"F": 0.0, "M": 1.0}.get(sex, np.nan)


def _patients(store: Store) -> list[str]:
    """What the data set calls each record's patient."""
    shards = sorted(store.path.glob(shard_name(0).replace("00000", "*")))
    columns = [pq.read_table(shard, columns=["patient"], partitioning=None)["patient"] for shard in shards]
    return [name for column in columns for name in column.to_pylist()]


def _stem(name: str) -> str:
    return name.removesuffix(".hea").removesuffix(".dat")


def _tails(name: str) -> Iterator[str]:
    """A path, and what is left of it without its first folders: a data set names records from its own root."""
    parts = PurePosixPath(_stem(name)).parts
    for start in range(len(parts)):
        yield str(PurePosixPath(*parts[start:]))
