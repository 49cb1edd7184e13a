"""Proving a data set complete: everything in it is read again."""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data.entry import signal_hash
from ..errors import RecordError
from .durable import TEMPORARY, fingerprint, replacing
from .formats import FORMATS, open_format
from .formats.stored import Format
from .formats.wfdb import TABLE
from .items import Facts
from .manifest import FAILED, MANIFEST, DatasetError, Entry, read_failed, read_lines, rewrite
from .shard_checks import SHOWN, index_problems, listed, record_defects, some

IDENTITY = "dataset.json"
_KEYS = {"facts": dict, "total": int, "shards": int, "complete": bool}
_TOTALS = {"records": int, "failed": int}
"""Of a complete data set."""
_PARTS = ("README.md", "LICENSE.md", "plan.yaml", FAILED)
_KNOWN = {*_PARTS, TABLE, IDENTITY, MANIFEST}
_RUN = "run"
_AGAIN = "the same dataset command makes it again after --repair"


@dataclass
class Verification:
    """What a data set was found to hold. problems: a sentence each, none where all is well.

    damaged: the shards among them, which `repair` takes out of the manifest.
    """

    records: int = 0
    failed: int = 0
    shards: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)


def verify(out: str | Path, progress: bool = True) -> Verification:
    """Read the data set in `out` again, whole, and compare it with its manifest and with dataset.json.

    Every shard's size and SHA-256; of every record its place, condition, gain, range, seed and model; that no item
    is missing or comes twice, that no two signals are equal, and that there is no other file. Takes some 40 bytes of
    memory a record. progress: show a bar. Raises DatasetError where `out` holds no data set.
    """
    return _Verifier(Path(out)).run(progress)


def repair(out: str | Path, found: Verification) -> set[int]:
    """Take what `verify` found damaged or missing out of the manifest, and declare the data set not complete.

    The same dataset command then makes those shards, and all that is gathered from the shards, again. Files that do
    not belong stay. Returns the shards that the manifest no longer names; a line that could not be read is gone too.
    """
    manifest, identity = Path(out) / MANIFEST, Path(out) / IDENTITY
    stated = _read_identity(identity)
    unfinished = {key: value for key, value in stated.items() if key not in _TOTALS} | {"complete": False}
    with replacing(identity) as temporary:
        temporary.write_text(json.dumps(unfinished, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    entries = {line.shard: line for line in read_lines(manifest) if isinstance(line, Entry)}
    rewrite(manifest, [entries[shard] for shard in sorted(entries.keys() - found.damaged)])
    return found.damaged & entries.keys()


class _Verifier:
    def __init__(self, out: Path):
        self._out = out
        self._stated = _read_identity(out / IDENTITY)
        self._facts = Facts(**self._stated["facts"])
        self._found = Verification()
        self._hashes, self._indices = array("q"), array("q")

    def run(self, progress: bool) -> Verification:
        began = time.perf_counter()
        entries = self._entries()
        found = self._found
        with tqdm(desc="verifying", total=sum(e.count for e in entries), unit="record", disable=not progress) as bar:
            for entry in entries:
                problems = list(self._shard_problems(entry))
                if problems:
                    found.damaged.add(entry.shard)
                    found.problems += [f"{self._out / entry.path}: {problem}; {_AGAIN}" for problem in problems]
                bar.update(entry.count)
        found.shards = len(entries)
        found.records = sum(entry.records for entry in entries)
        found.failed = sum(len(entry.failed) for entry in entries)
        found.problems += [*self._equal_signals(), *self._count_problems(entries), *self._summary_problems(entries)]
        found.problems += self._extra_files(entries)
        found.seconds = time.perf_counter() - began
        return found

    def _entries(self) -> list[Entry]:
        """Those of the manifest, in order of the shards; its problems are noted."""
        entries: dict[int, Entry] = {}
        path = self._out / MANIFEST
        for line in read_lines(path):
            if isinstance(line, DatasetError):
                self._found.problems.append(str(line))
            elif entries.setdefault(line.shard, line) != line:
                self._found.problems.append(f"{path}: shard {line.shard} is entered twice, differently; {_AGAIN}")
                self._found.damaged.add(line.shard)
        return [entries[shard] for shard in sorted(entries)]

    def _shard_problems(self, entry: Entry) -> Iterator[str]:
        """What is wrong with a shard; its content is looked at where its bytes are those that were written."""
        form = _format_of(entry)
        path = self._out / entry.path
        if form is None:
            yield f"no format has a shard {entry.shard} of this name"
            return
        try:
            size, digest = fingerprint(path)
        except FileNotFoundError:
            yield "is missing, though the manifest names it"
            return
        except OSError as error:
            yield f"cannot be read: {error}"
            return
        if (size, digest) != (entry.bytes, entry.sha256):
            yield (
                f"is damaged: {size} bytes with SHA-256 {digest}, the manifest says {entry.bytes} with {entry.sha256}"
            )
            return
        yield from self._content_problems(form, path, entry)

    def _content_problems(self, form: Format, path: Path, entry: Entry) -> Iterator[str]:
        indices: list[int] = []
        defects: dict[str, list[int]] = {}
        try:
            for record in form.read(path):
                indices.append(record.index)
                for defect in record_defects(record, self._facts):
                    defects.setdefault(defect, []).append(record.index)
                self._hashes.append(signal_hash(record.signal, np.float32(record.gain)))
                self._indices.append(record.index)
        except RecordError as error:
            yield str(error).removeprefix(f"{path}: ")
        yield from (f"{defect} in {some('record', where)}" for defect, where in defects.items())
        yield from index_problems(entry, indices)

    def _equal_signals(self) -> Iterator[str]:
        hashes, indices = (np.frombuffer(values, np.int64) for values in (self._hashes, self._indices))
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        if len(equal):
            pairs = [f"{indices[order[at]]} and {indices[order[at + 1]]}" for at in equal[:SHOWN]]
            yield (
                f"{self._out}: {len(equal)} records have the signal of another one ({listed(pairs, len(equal))}); "
                "where no shard is damaged, the model made them so"
            )

    def _count_problems(self, entries: list[Entry]) -> Iterator[str]:
        place, total = self._out / IDENTITY, self._stated["total"]
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.first):
            if entry.first < end or entry.first + entry.count > total:
                last = entry.first + entry.count - 1
                yield f"{self._out / MANIFEST}: shard {entry.shard} has items {entry.first}..{last}, not its own"
            end = max(end, entry.first + entry.count)
        missing = total - sum(entry.count for entry in entries)
        if missing > 0:
            yield f"{self._out}: {missing} of {total} records are missing; the same dataset command makes them"
        elif missing < 0:
            yield f"{self._out / MANIFEST}: {-missing} items more than the {total} that {IDENTITY} states"
        if not self._stated["complete"]:
            if not missing:
                yield f"{place}: the data set is not complete; the same dataset command finishes it"
            return
        counts = {"shards": len(entries), "records": self._found.records, "failed": self._found.failed}
        for name, count in counts.items():
            if self._stated[name] != count:
                yield f"{place}: {name} is {self._stated[name]}, the manifest has {count}"

    def _summary_problems(self, entries: list[Entry]) -> Iterator[str]:
        """Of failed.parquet and the tables of a complete data set."""
        if not self._stated["complete"]:
            return
        yield from (f"{self._out / name}: is missing; {_AGAIN}" for name in _PARTS if not (self._out / name).is_file())
        if (self._out / FAILED).is_file() and not self._failures_agree(entries):
            yield f"{self._out / FAILED}: is not what the manifest says; {_AGAIN}"
        whole = [entry for entry in entries if entry.shard not in self._found.damaged]
        if len(whole) < len(entries) or not entries:
            return  # what is gathered from all shards cannot be compared
        for name, content in _format_of(entries[0]).tables(self._out, entries).items():
            path = self._out / name
            if not path.is_file():
                yield f"{path}: is missing; {_AGAIN}"
            elif not _same_bytes(path, content):
                yield f"{path}: is not what the shards say; {_AGAIN}"

    def _failures_agree(self, entries: list[Entry]) -> bool:
        expected = (item for entry in entries for item in entry.failed)
        try:
            return all(one == other for one, other in zip_longest(read_failed(self._out), expected))
        except (OSError, ValueError, TypeError):  # what pyarrow raises for a damaged file, or one with other columns
            return False

    def _extra_files(self, entries: list[Entry]) -> Iterator[str]:
        """All that the manifest does not name; what a shard's folder holds belongs to its SHA-256.

        Hidden files of others pass, such as .gitattributes or the .cache of a download.
        """
        known = _KNOWN | {entry.path for entry in entries}
        for folder, names, files in os.walk(self._out):
            place = Path(folder).relative_to(self._out)
            inner = sorted(names)
            names[:] = [
                name for name in inner
                if not name.startswith(".") and (place / name).as_posix() not in known | {_RUN}
            ]  # fmt: skip
            half_written = [name for name in inner if name.startswith(TEMPORARY)]
            for name in (*half_written, *sorted(files)):
                path = (place / name).as_posix()
                if name.startswith(TEMPORARY):
                    yield f"{self._out / path}: left by a killed writer; the same dataset command removes it"
                elif path not in known and not name.startswith("."):
                    yield f"{self._out / path}: the manifest does not name it; delete it, or make its shard again"


def _read_identity(path: Path) -> dict:
    try:
        stated = json.loads(path.read_bytes())
        kinds = _KEYS | (_TOTALS if stated.get("complete") else {})
        wrong = [key for key, kind in kinds.items() if not isinstance(stated.get(key), kind)]
        problem = f"no usable value of {', '.join(wrong)}" if wrong else ""
        if not problem and set(stated["facts"]) != set(Facts.__dataclass_fields__):
            problem = f"facts are {', '.join(stated['facts'])}, expected {', '.join(Facts.__dataclass_fields__)}"
    except FileNotFoundError:
        problem = "no such file: the folder holds no data set"
    except (ValueError, AttributeError) as error:
        problem = f"not a JSON object: {error}"
    if problem:
        raise DatasetError(f"{path}: {problem}")
    return stated


def _format_of(entry: Entry) -> Format | None:
    forms = map(open_format, FORMATS)
    return next((form for form in forms if form.path(entry.shard) == entry.path), None)


def _same_bytes(path: Path, content: Iterator[bytes]) -> bool:
    with open(path, "rb") as file:
        return all(file.read(len(part)) == part for part in content) and not file.read(1)
