"""Files and columns of a store, and what makes two records or two stores the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .preprocess import SAMPLES

VERSION = 1
MANIFEST = "store.json"
STATEMENTS = "statements.parquet"
REJECTED = "rejected.parquet"
UNFINISHED = "unfinished"
CACHE = "cache"

FIELDS = {
    *("version", "kind", "options", "text_encoder", "text_width"),
    *("shards", "records", "statements", "rejected", "digest"),
}
"""Of store.json."""

LEADS = 12
RECORDS = pa.schema(
    [
        ("name", pa.string()),
        ("patient", pa.string()),
        ("time", pa.timestamp("ms")),
        ("age", pa.float32()),
        ("sex", pa.string()),
        ("heart_rate", pa.float32()),
        ("statements", pa.list_(pa.int32())),
        ("gain", pa.float32()),
        ("signal_hash", pa.int64()),
        ("real", pa.bool_()),
        ("target", pa.bool_()),
        ("test", pa.bool_()),
        ("signal", pa.list_(pa.int16(), SAMPLES * LEADS)),
    ]
)
"""gain: units per mV. signal: row-major (1024, 12). test: of the patients that training must not see."""

CONDITIONS = RECORDS.remove(RECORDS.get_field_index("signal"))
REJECTIONS = pa.schema([("name", pa.string()), ("reason", pa.string()), ("message", pa.string())])


def shard_name(number: int) -> str:
    """File name of a shard of records."""
    return f"records-{number:05d}.parquet"


def store_digest(shards: Iterable[Path], statements: list[str], embeddings: np.ndarray) -> str:
    """SHA-256 of a store's content, however it is cut into shards; the signals count by their hashes."""
    digest = hashlib.sha256(json.dumps(statements).encode())
    digest.update(np.ascontiguousarray(embeddings, "<f4").tobytes())
    for shard in shards:
        for row in pq.read_table(shard, columns=CONDITIONS.names, partitioning=None).to_pylist():
            digest.update(json.dumps(row, default=str).encode())
    return digest.hexdigest()
