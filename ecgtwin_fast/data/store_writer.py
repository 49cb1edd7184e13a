"""Writing a store, shard by shard; an interrupted writer goes on after the last complete shard."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..errors import StoreError
from ..staging import check_folder
from .entry import Entry, Rejected
from .store import Store, is_complete, manifest
from .store_format import (
    CONDITIONS,
    MANIFEST,
    RECORDS,
    REJECTED,
    REJECTIONS,
    STATEMENTS,
    UNFINISHED,
    VERSION,
    shard_name,
    store_digest,
)
from .text import TextEncoder

__all__ = ["Entry", "Rejected", "StoreWriter"]

WORK = "work.json"
EMBEDDED_AT_ONCE = 256


class StoreWriter:
    """Fills the store in folder `path`.

    `write` adds a shard, whole or not at all, and `finish` closes the store. A new writer of the same `kind`, `options`
    and `listing` goes on after the `shards` that are complete; the caller then leaves out what they hold.

    Args:
        kind: of the data, such as 'ptb-xl'. options: JSON values that decide the content. listing: a digest of what
            is to be read, such as the names of all records, for `path` to be continued only while it is the same.

    Attributes:
        shards, records: how many are complete. rejected: how many records for each reason.

    Raises:
        StoreError: `path` holds a finished store, or unfinished work of another kind, options or listing.
    """

    def __init__(self, path: str | Path, kind: str, options: dict, listing: str = ""):
        self.path = Path(path)
        self.kind, self.options = kind, json.loads(json.dumps(options))
        self.shards, self.records = 0, 0
        self.rejected: Counter[str] = Counter()
        self._statements: dict[str, int] = {}
        self._unfinished = self.path / UNFINISHED
        self._begin({"version": VERSION, "kind": kind, "options": self.options, "listing": listing})
        while (self.path / shard_name(self.shards)).exists():
            self._count(json.loads(self._part(self.shards).read_text(encoding="utf-8")))

    def write(self, entries: Sequence[Entry], rejected: Sequence[Rejected] = ()) -> None:
        """Add the next shard of records, and those rejected on the way. Statements are numbered as they appear."""
        new = dict.fromkeys(text for entry in entries for text in entry.statements if text not in self._statements)
        part = {
            "records": len(entries),
            "statements": list(new),
            "rejected": [[record.name, record.reason, record.message] for record in rejected],
        }
        shard = self.path / shard_name(self.shards)
        # The shard comes last: where it is, its part is too.
        _replace(self._part(self.shards), lambda path: path.write_text(json.dumps(part), encoding="utf-8"))
        self._count(part)
        table = _table(entries, self._statements)
        _replace(
            shard,
            lambda path: pq.write_table(
                table, path, compression="zstd", compression_level=1, use_dictionary=CONDITIONS.names,
                use_byte_stream_split=["signal.list.element"],
            ),
        )  # fmt: skip

    def finish(self, encoder: TextEncoder) -> Store:
        """Embed each distinct statement, gather what was rejected, and declare the store complete.

        Raises StoreError where no shard was written, and what the encoder raises; the shards then stay, and `finish`
        can be called again.
        """
        if self.shards == 0:
            raise StoreError(f"{self.path}: there are no records to make a store of")
        texts = list(self._statements)
        embeddings = _embed(texts, encoder)
        width = pa.list_(pa.float32(), encoder.width)
        table = pa.table(
            {
                "id": pa.array(range(1, len(texts) + 1), pa.int32()),
                "text": pa.array(texts, pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), type=width),
            }
        )
        _replace(self.path / STATEMENTS, lambda path: pq.write_table(table, path))
        _replace(self.path / REJECTED, self._write_rejected)
        content = {
            "version": VERSION,
            "kind": self.kind,
            "options": self.options,
            "text_encoder": encoder.name,
            "text_width": encoder.width,
            "shards": self.shards,
            "records": self.records,
            "statements": len(texts),
            "rejected": dict(sorted(self.rejected.items())),
            "digest": store_digest(
                (self.path / shard_name(number) for number in range(self.shards)), texts, embeddings
            ),
        }
        _replace(self.path / MANIFEST, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))
        shutil.rmtree(self._unfinished)
        return Store(self.path)

    def _begin(self, work: dict) -> None:
        check_folder(self.path)
        if is_complete(self.path):
            raise StoreError(f"{self.path}: holds a finished store of {manifest(self.path)['kind']}")
        if (self._unfinished / WORK).exists():
            found = json.loads((self._unfinished / WORK).read_text(encoding="utf-8"))
            for field, value in work.items():
                if found[field] != value:
                    raise StoreError(
                        f"{self.path}: holds unfinished work with other {field} ({difference(found[field], value)}): "
                        "choose another folder, or delete this one"
                    )
        elif (self.path / shard_name(0)).exists():
            raise StoreError(f"{self.path}: holds records without {MANIFEST}: choose another folder")
        else:
            self._unfinished.mkdir(parents=True, exist_ok=True)
            _replace(self._unfinished / WORK, lambda path: path.write_text(json.dumps(work), encoding="utf-8"))

    def _part(self, number: int) -> Path:
        return self._unfinished / f"part-{number:05d}.json"

    def _count(self, part: dict) -> None:
        for text in part["statements"]:
            self._statements[text] = len(self._statements) + 1
        self.records += part["records"]
        self.rejected.update(reason for _, reason, _ in part["rejected"])
        self.shards += 1

    def _write_rejected(self, path: Path) -> None:
        with pq.ParquetWriter(path, REJECTIONS) as writer:
            for number in range(self.shards):
                rows = json.loads(self._part(number).read_text(encoding="utf-8"))["rejected"]
                columns = zip(*rows, strict=True) if rows else ([], [], [])
                writer.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTIONS))


def _embed(texts: list[str], encoder: TextEncoder) -> np.ndarray:
    embeddings = np.zeros((len(texts), encoder.width), np.float32)
    with tqdm(desc=f"embedding by {encoder.name}", total=len(texts), unit="statement") as bar:
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            part = slice(start, start + EMBEDDED_AT_ONCE)
            embeddings[part] = encoder.encode(texts[part])
            bar.update(len(texts[part]))
    return embeddings


def difference(found: object, given: object) -> str:
    """The entries in which two options differ, or the two themselves, as 'seed 3, not 4'."""
    if not (isinstance(found, dict) and isinstance(given, dict)):
        return f"{found}, not {given}"
    keys = [key for key in {**found, **given} if found.get(key) != given.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, not {given.get(key)!r}" for key in keys)


def _table(entries: Sequence[Entry], statements: dict[str, int]) -> pa.Table:
    columns = {name: [getattr(entry, name) for entry in entries] for name in CONDITIONS.names}
    columns["statements"] = [[statements[text] for text in texts] for texts in columns["statements"]]
    columns["time"] = np.array([np.datetime64("NaT") if t is None else t for t in columns["time"]], "datetime64[s]")
    arrays = {name: pa.array(values, RECORDS.field(name).type) for name, values in columns.items()}
    signals = np.concatenate([entry.signal.ravel() for entry in entries] or [np.zeros(0, np.int16)])
    arrays["signal"] = pa.FixedSizeListArray.from_arrays(pa.array(signals), type=RECORDS.field("signal").type)
    return pa.table(arrays, schema=RECORDS)


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    temporary = target.with_name(f".{target.name}.new")
    write(temporary)
    os.replace(temporary, target)
