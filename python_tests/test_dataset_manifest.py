"""The manifest of a data set: what is entered stays, whatever happens to the writer."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgtwin_fast.dataset.items import Failed
from ecgtwin_fast.dataset.manifest import (
    FAILED,
    MANIFEST,
    DatasetError,
    Entry,
    Manifest,
    read_failed,
    write_failed,
)


def entry(shard: int, failures: int = 0) -> Entry:
    failed = tuple(Failed(shard * 4 + i, f"réf {i}", "NaN", 'lead "V1"\nis NaN') for i in range(failures))
    return Entry(shard, shard * 4, 4, 4 - failures, f"data/shard-{shard:05d}.parquet", 100 + shard, "ab" * 32, failed)


def lines(out: Path) -> list[bytes]:
    return (out / MANIFEST).read_bytes().splitlines(keepends=True)


def test_entries_come_back_in_order(tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.entries == [] and manifest.done() == set()
    for shard in (2, 0, 1):
        manifest.append(entry(shard, failures=shard))
    for found in (manifest, Manifest(tmp_path)):
        assert found.entries == [entry(0), entry(1, 1), entry(2, 2)]
        assert found.done() == {0, 1, 2}
    assert [json.loads(line)["shard"] for line in lines(tmp_path)] == [2, 0, 1]


def test_sorting_gives_the_same_bytes_whatever_the_order(tmp_path):
    contents = []
    for name, order in {"a": (2, 0, 1), "b": (1, 2, 0)}.items():
        (tmp_path / name).mkdir()
        manifest = Manifest(tmp_path / name)
        for shard in order:
            manifest.append(entry(shard, 1))
        manifest.rewrite_sorted()
        assert Manifest(tmp_path / name).entries == [entry(shard, 1) for shard in range(3)]
        contents.append((tmp_path / name / MANIFEST).read_bytes())
        assert [path.name for path in (tmp_path / name).iterdir()] == [MANIFEST]
    assert contents[0] == contents[1]


def test_a_shard_twice(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.append(entry(1))
    manifest.append(entry(1))
    assert len(lines(tmp_path)) == 1
    other = replace(entry(1), sha256="cd" * 32)
    with pytest.raises(DatasetError, match="shard 1 is entered twice"):
        manifest.append(other)
    Manifest(tmp_path / "x")  # reading makes nothing
    assert not (tmp_path / "x").exists()

    (tmp_path / "other").mkdir()
    Manifest(tmp_path / "other").append(other)
    with open(tmp_path / MANIFEST, "ab") as file:
        file.write(lines(tmp_path)[0])
    assert Manifest(tmp_path).entries == [entry(1)], "equal lines are one"
    with open(tmp_path / MANIFEST, "ab") as file:
        file.write(lines(tmp_path / "other")[0])
    with pytest.raises(DatasetError, match="shard 1 is entered twice"):
        Manifest(tmp_path)


def test_a_torn_last_line_is_dropped_and_cut_off(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.append(entry(0))
    manifest.append(entry(1, 2))
    whole = (tmp_path / MANIFEST).read_bytes()
    start = len(lines(tmp_path)[0])
    for end in range(start, len(whole), 7):
        (tmp_path / MANIFEST).write_bytes(whole[:end])
        torn = Manifest(tmp_path)
        assert torn.done() == {0}
        assert (tmp_path / MANIFEST).stat().st_size == end, "a reader changes nothing"
        torn.append(entry(2))
        assert Manifest(tmp_path).entries == [entry(0), entry(2)]
    (tmp_path / MANIFEST).write_bytes(whole[:-1])
    assert Manifest(tmp_path).done() == {0}


def test_any_other_damage_is_an_error_that_names_the_line(tmp_path):
    manifest = Manifest(tmp_path)
    for shard in range(3):
        manifest.append(entry(shard, 1))
    whole = (tmp_path / MANIFEST).read_bytes()
    start, end = len(lines(tmp_path)[0]), len(b"".join(lines(tmp_path)[:2]))
    for place in range(start, end - 1, 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        if damaged[place] == ord("\n"):
            continue
        (tmp_path / MANIFEST).write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"{MANIFEST}:2: the line .* damaged"):
            Manifest(tmp_path)


def test_threads_append_at_once(tmp_path):
    manifest = Manifest(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(manifest.append, [entry(shard // 2, 1) for shard in range(80)]))
    assert Manifest(tmp_path).entries == [entry(shard, 1) for shard in range(40)]
    assert len(lines(tmp_path)) == 40


_APPENDER = """\
import sys
from ecgtwin_fast.dataset.items import Failed
from ecgtwin_fast.dataset.manifest import Entry, Manifest
manifest = Manifest(sys.argv[1])
while True:
    shard = len(manifest.done())
    failed = tuple(Failed(i, "reference", "NaN", "message " * 20) for i in range(2000))
    manifest.append(Entry(shard, shard * 2000, 2000, 0, "path", 0, "digest", failed))
    print(shard, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_entered(tmp_path):
    for delay in (0.0, 0.004, 0.011, 0.017, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", _APPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        first = writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in (first, *writer.communicate()[0].splitlines()) if line.strip()]
        assert writer.returncode == -signal.SIGKILL
        found = Manifest(tmp_path)
        assert found.done() == set(range(len(found.done()))) >= set(said)
        assert said == list(range(said[0], said[-1] + 1))
        assert all(len(one.failed) == 2000 for one in found.entries)


_LIMITED = """\
import resource, sys
from pathlib import Path
from ecgtwin_fast.dataset.manifest import MANIFEST, Entry, Manifest
manifest = Manifest(sys.argv[1])
entry = Entry(1, 4, 4, 4, "data/shard-00001.parquet", 1, "ab" * 32)
size = (Path(sys.argv[1]) / MANIFEST).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
try:
    manifest.append(entry)
except OSError as error:
    print(error.errno, sorted(manifest.done()))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
manifest.append(entry)
"""


def test_no_room_for_a_line(tmp_path):
    Manifest(tmp_path).append(entry(0))
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == [str(errno.ENOSPC), "[0]\n"]
    assert Manifest(tmp_path).done() == {0, 1}
    assert len(lines(tmp_path)) == 2


def test_failures_are_gathered(tmp_path):
    entries = [entry(0, 2), entry(1), entry(2, 3)]
    write_failed(tmp_path, iter(entries))
    assert list(read_failed(tmp_path)) == [*entries[0].failed, *entries[2].failed]
    schema = pq.read_schema(tmp_path / FAILED)
    assert schema.names == ["index", "reference", "reason", "message"] and schema.field(0).type == pa.int64()
    content = (tmp_path / FAILED).read_bytes()
    write_failed(tmp_path, entries)
    assert (tmp_path / FAILED).read_bytes() == content
    write_failed(tmp_path, [entry(1)])
    assert list(read_failed(tmp_path)) == []
