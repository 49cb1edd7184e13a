"""What a data set holds: one line for each finished shard."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from errno import ENOSPC
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ECGTwinError
from .durable import replacing, sync
from .items import Failed

MANIFEST = "manifest.jsonl"
FAILED = "failed.parquet"
FAILURES = pa.schema(
    [("index", pa.int64()), ("reference", pa.string()), ("reason", pa.string()), ("message", pa.string())]
)
_CHECK = "check"


class DatasetError(ECGTwinError):
    """A data set is missing or damaged, or its manifest contradicts itself."""


@dataclass(frozen=True)
class Entry:
    """A finished shard: of the items first..first+count-1, `records` became records and `failed` did not.

    path: of its file or folder, relative to the data set. bytes, sha256: as durable.fingerprint finds them.
    """

    shard: int
    first: int
    count: int
    records: int
    path: str
    bytes: int
    sha256: str
    failed: tuple[Failed, ...] = ()


class Manifest:
    """The manifest of the data set in folder `out`, which may hold none yet.

    A last line that a killed writer left torn counts as not written. Raises DatasetError, naming the line, for any
    other line that is damaged, and for a shard that is entered twice with different content.
    """

    def __init__(self, out: str | Path):
        self.path = Path(out) / MANIFEST
        self._entries: dict[int, Entry] = {}
        self._lock = threading.Lock()
        for line in read_lines(self.path):
            if isinstance(line, DatasetError):
                raise line
            self._enter(line)

    @property
    def entries(self) -> list[Entry]:
        """In order of the shards."""
        return [self._entries[shard] for shard in sorted(self._entries)]

    def done(self) -> set[int]:
        """Numbers of the shards that are entered."""
        return set(self._entries)

    def append(self, entry: Entry) -> None:
        """Enter a shard; it is on disk when this returns. An equal entry that is there already stays the only one.

        Raises DatasetError where the shard is entered with other content, and OSError where the disk is full: the
        manifest is then as before.
        """
        with self._lock:
            if self._known(entry):
                return
            _append(self.path, _encode(entry))
            self._enter(entry)

    def rewrite_sorted(self) -> None:
        """Put the lines in order of the shards, each once."""
        rewrite(self.path, self.entries)

    def _known(self, entry: Entry) -> bool:
        known = self._entries.get(entry.shard)
        if known not in (None, entry):
            raise DatasetError(
                f"{self.path}: shard {entry.shard} is entered twice, with SHA-256 {known.sha256} and {entry.sha256}"
            )
        return known is not None

    def _enter(self, entry: Entry) -> None:
        if not self._known(entry):
            self._entries[entry.shard] = entry


def read_lines(path: Path) -> Iterator[Entry | DatasetError]:
    """The entry of each line, or the error that says what is wrong with it; none for a torn last line."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _decode(line, f"{path}:{number}")


def rewrite(path: Path, entries: Iterable[Entry]) -> None:
    """Replace a manifest by one of these entries."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(map(_encode, entries))


def write_failed(out: str | Path, entries: Iterable[Entry]) -> None:
    """Write failed.parquet (index, reference, reason, message): the failures of `entries`, in their order."""
    with replacing(Path(out) / FAILED) as temporary, pq.ParquetWriter(temporary, FAILURES) as writer:
        for entry in entries:
            if entry.failed:
                writer.write_table(pa.Table.from_pylist([asdict(item) for item in entry.failed], FAILURES))


def read_failed(out: str | Path) -> Iterator[Failed]:
    """The rows of failed.parquet."""
    with pq.ParquetFile(Path(out) / FAILED) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield Failed(**row)


def _encode(entry: Entry) -> bytes:
    content = asdict(entry)
    check = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return json.dumps(content | {_CHECK: check}, sort_keys=True).encode() + b"\n"


def _decode(line: bytes, place: str) -> Entry | DatasetError:
    try:
        content = json.loads(line)
        values = {field.name: content[field.name] for field in fields(Entry)}
        entry = Entry(**values | {"failed": tuple(Failed(**item) for item in values["failed"])})
        if _encode(entry) == line:
            return entry
        problem = "does not agree with its own checksum"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"is no entry ({type(error).__name__}: {error})"
    return DatasetError(f"{place}: the line {problem}: damaged; repairing the data set drops it", "damaged manifest")


def _append(path: Path, line: bytes) -> None:
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = _cut_torn_line(descriptor)
        try:
            # One call, so that no reader meets half a line but where the writer dies in it.
            written = os.write(descriptor, line)
            if written < len(line):
                raise OSError(ENOSPC, f"only {written} of {len(line)} bytes could be written", str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if new:
        sync(path.parent)


def _cut_torn_line(descriptor: int) -> int:
    """The length of the file, which now ends with a whole line."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        size = os.pread(descriptor, size, 0).rfind(b"\n") + 1
        os.ftruncate(descriptor, size)
    return size
