"""A shard as a Parquet file: one row a record, the signal as 16 bit integers with a gain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import RecordError
from .stored import COLUMNS, SHAPE, Format, Stored, about, reading

if TYPE_CHECKING:
    from ..items import Facts

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("reference", pa.string()),
        ("patient", pa.string()),
        ("condition", pa.int32()),
        ("twin", pa.int32()),
        ("report", pa.string()),
        ("heart_rate", pa.float64()),
        ("age", pa.float64()),
        ("sex", pa.string()),
        ("base_vector", pa.string()),
        ("seed", pa.uint64()),
        ("model", pa.string()),
        ("gain", pa.float32()),
        ("signal", pa.list_(pa.int16(), SHAPE[0] * SHAPE[1])),
    ]
)
"""The fields of Stored; signal: row-major (1024, 12)."""

_READ_AT_ONCE = 64


class Parquet(Format):
    name = "parquet"

    def path(self, shard: int) -> str:
        return f"data/shard-{shard:05d}.parquet"

    def write(self, path: Path, shard: int, rows: Sequence[Stored], facts: Facts) -> None:
        writer = pq.ParquetWriter(
            path, SCHEMA.with_metadata(_metadata(facts)), compression="zstd", compression_level=1,
            use_dictionary=list(COLUMNS), use_byte_stream_split=["signal.list.element"],
        )  # fmt: skip
        with writer:
            if rows:  # `datasets` reads a file without row groups, but not one with an empty one
                writer.write_table(_table(rows, writer.schema))

    def read(self, path: Path) -> Iterator[Stored]:
        with reading(path), pq.ParquetFile(path) as file:
            if file.schema_arrow != SCHEMA:
                raise RecordError(f"{path}: columns {file.schema_arrow.names} with their types are not a shard's")
            for batch in file.iter_batches(_READ_AT_ONCE):
                empty = [name for name in batch.schema.names if batch.column(name).null_count]
                if empty:
                    raise RecordError(f"{path}: no value in column {empty[0]}", "damaged")
                signals = batch.column("signal").flatten().to_numpy().reshape(-1, *SHAPE)
                columns = [batch.column(name).to_pylist() for name in COLUMNS]
                for *values, signal in zip(*columns, signals, strict=True):
                    yield Stored(*values, signal)


def _table(rows: Sequence[Stored], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array([getattr(row, name) for row in rows], schema.field(name).type) for name in COLUMNS]
    signals = np.concatenate([row.signal.ravel() for row in rows])
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(signals), type=schema.field("signal").type))
    return pa.table(arrays, schema=schema)


def _metadata(facts: Facts) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about(facts).items()}


FORMAT = Parquet()
