"""Shards in each format: what is written is read back, by us and by the libraries that users have."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wfdb
import yaml
from shard_samples import FACTS, failure, made, plan_of, write_dataset

from ecgtwin_fast import NOTICE
from ecgtwin_fast.cli import main
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.record import read_record
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.dataset.card import write_card
from ecgtwin_fast.dataset.durable import fingerprint, remove_leftovers
from ecgtwin_fast.dataset.formats import FORMATS, open_format
from ecgtwin_fast.dataset.formats.stored import stored
from ecgtwin_fast.dataset.formats.wfdb import header
from ecgtwin_fast.dataset.shard import write_shard
from ecgtwin_fast.errors import ECGTwinError, RecordError

each_format = pytest.mark.parametrize("form", FORMATS)


def shard_of(out: Path, form: str, records, failed=(), shard: int = 3, first: int = 8):
    count = len(records) + len(failed)
    return write_shard(out, open_format(form), shard, first, count, records, failed, FACTS)


@each_format
def test_records_come_back(tmp_path, form):
    records = [made(8), made(10), made(11, scale=6)]
    entry = shard_of(tmp_path, form, records, [failure(9)])
    found = list(open_format(form).read(tmp_path / entry.path))
    assert [row.index for row in found] == [8, 10, 11]
    for row, record in zip(found, records, strict=True):
        expected = stored(record, FACTS, open_format(form).gain)
        assert row.values() == expected.values()
        assert row.signal.dtype == np.int16 and np.array_equal(row.signal, expected.signal)
        assert (row.seed, row.model, row.heart_rate) == (7, FACTS.model_digest, record.asked.heart_rate)
        # Half a step, and the rounding of float32.
        assert np.abs(row.signal / row.gain - record.signal).max() <= 0.505 / row.gain
    assert (entry.shard, entry.first, entry.count, entry.records) == (3, 8, 4, 3)
    assert entry.failed == (failure(9),)
    assert (entry.bytes, entry.sha256) == fingerprint(tmp_path / entry.path)


@each_format
def test_same_bytes_in_any_order(tmp_path, form):
    records = [made(index) for index in range(8, 12)]
    entry = shard_of(tmp_path / "a", form, records)
    assert shard_of(tmp_path / "b", form, records[::-1]) == entry
    assert shard_of(tmp_path / "b", form, records) == entry, "written again"
    louder = [replace(records[0], signal=records[0].signal * 2), *records[1:]]
    assert shard_of(tmp_path / "b", form, louder).sha256 != entry.sha256, "replaced"
    assert fingerprint(tmp_path / "b" / entry.path)[1] != entry.sha256
    assert [path.name for path in (tmp_path / "b" / entry.path).parent.iterdir()] == [Path(entry.path).name]


@each_format
def test_writers_of_the_same_shard_at_once(tmp_path, form):
    records = [made(index) for index in range(8, 12)]
    with ThreadPoolExecutor(4) as pool:
        entries = list(pool.map(lambda _: shard_of(tmp_path, form, records), range(12)))
    assert len(set(entries)) == 1
    path = tmp_path / entries[0].path
    assert fingerprint(path) == (entries[0].bytes, entries[0].sha256)
    assert list(path.parent.iterdir()) == [path]


@each_format
def test_shard_without_records(tmp_path, form):
    entry = shard_of(tmp_path, form, [], [failure(8), failure(9)])
    assert (entry.records, entry.count) == (0, 2)
    assert list(open_format(form).read(tmp_path / entry.path)) == []


@each_format
@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (32.8, "amplitude out of range")]
)
def test_unusable_signals_are_refused(tmp_path, form, value, reason):
    record = made(8)
    record.signal[5, 3] = value
    with pytest.raises(RecordError, match="record 8") as caught:
        shard_of(tmp_path, form, [record])
    assert caught.value.reason == reason
    assert not list(tmp_path.rglob("*shard*"))


@each_format
def test_largest_amplitude(tmp_path, form):
    record = made(8)
    record.signal[5, 3], record.signal[6, 3] = 32.767, -32.767
    entry = shard_of(tmp_path, form, [record])
    (row,) = open_format(form).read(tmp_path / entry.path)
    assert row.signal.max() == 32767 and row.signal.min() == -32767


def test_amplitude_too_small_for_any_gain(tmp_path):
    record = made(8)
    record.signal[:] = 1e-40
    with pytest.raises(RecordError, match="reaches 1e-40 mV"):
        shard_of(tmp_path, "parquet", [record])


@pytest.mark.parametrize("indices", [[8, 9], [8, 10, 10], [9, 10, 11], []])
def test_items_of_another_shard_are_refused(tmp_path, indices):
    with pytest.raises(RecordError, match="expected each of 8..10"):
        write_shard(tmp_path, open_format("parquet"), 3, 8, 3, [made(index) for index in indices], [], FACTS)
    assert not list(tmp_path.iterdir())


def test_unknown_format():
    with pytest.raises(ECGTwinError, match="unknown format 'hdf5': expected parquet, wfdb, webdataset"):
        open_format("hdf5")


@each_format
@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_damaged_shards_are_named(tmp_path, form, damage):
    entry = shard_of(tmp_path, form, [made(8), made(9)])
    path = tmp_path / entry.path
    file = sorted(path.glob("*.hea"))[0] if path.is_dir() else path
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 3] if damage == "truncated" else b"nothing " * 400)
    with pytest.raises(RecordError, match=re.escape(str(path))):
        list(open_format(form).read(path))


def test_parquet_schema_and_compression(tmp_path):
    path = tmp_path / shard_of(tmp_path, "parquet", [made(8), made(9)]).path
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"leads"]) == list(MODEL_LEADS)
    assert metadata[b"notice"].decode() == NOTICE
    assert (metadata[b"sampling_rate"], metadata[b"sampler"], metadata[b"steps"]) == (b"102.4", b"dpmpp", b"25")
    column = pq.ParquetFile(path).metadata.row_group(0).column(13)
    assert column.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in column.encodings


def test_wfdb_header_is_what_the_wfdb_package_writes(tmp_path):
    record = stored(made(8), FACTS, 1000.0)
    ours = header("000000000008", record, FACTS)
    comments = [line[2:] for line in ours.decode().splitlines() if line.startswith("# ")]
    wfdb.wrsamp(
        "000000000008", fs=102.4, units=["mV"] * 12, sig_name=list(MODEL_LEADS), d_signal=record.signal,
        fmt=["16"] * 12, adc_gain=[1000.0] * 12, baseline=[0] * 12, comments=comments, write_dir=str(tmp_path),
    )  # fmt: skip
    assert (tmp_path / "000000000008.hea").read_bytes() == ours
    assert (tmp_path / "000000000008.dat").read_bytes() == record.signal.tobytes()


def test_wfdb_record_is_read_with_its_condition(tmp_path):
    entry = shard_of(tmp_path, "wfdb", [made(10)], first=10)
    record = read_record(tmp_path / entry.path / "000000000010.hea")
    assert (record.leads, record.sampling_rate) == (MODEL_LEADS, 102.4)
    assert np.abs(record.signal - made(10).signal).max() <= 0.00051
    asked = made(10).asked
    assert (record.report, record.age, record.sex) == (asked.report, asked.age, asked.sex)
    assert record.heart_rate == pytest.approx(asked.heart_rate, rel=1e-5)
    text = (tmp_path / entry.path / "000000000010.hea").read_text()
    assert "not for diagnosis" in text and "Seed: 7, record index: 10" in text and FACTS.model_digest in text


def test_wfdb_data_set_becomes_a_store(tmp_path, capsys):
    write_dataset(tmp_path / "out", "wfdb")
    assert main(["prepare", "wfdb", str(tmp_path / "out"), str(tmp_path / "store"), "--workers", "1"]) == 0
    store = Store(tmp_path / "store")
    assert len(store) == 11 and not store.rejected
    assert "11 of 2 patients" in capsys.readouterr().out


def test_webdataset_members_have_no_time_or_owner(tmp_path):
    entry = shard_of(tmp_path, "webdataset", [made(8)])
    with tarfile.open(tmp_path / entry.path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["000000000008.npy", "000000000008.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


LOADERS = [
    ("parquet", "pandas"),
    ("parquet", "datasets"),
    ("wfdb", "pandas and wfdb"),
    ("webdataset", "webdataset"),
    ("webdataset", "datasets"),
]


# From the first tar `datasets` takes the fields of all, so that must hold a record.
FIRST_SHARD_EMPTY = [(*loader, range(4)) for loader in LOADERS if loader != ("webdataset", "datasets")]


@pytest.mark.parametrize(("form", "title", "failed"), [*((*loader, [5]) for loader in LOADERS), *FIRST_SHARD_EMPTY])
def test_the_readme_loads_the_data(tmp_path, monkeypatch, form, title, failed):
    write_dataset(tmp_path / "out", form, failed=failed)
    readme = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(rf"\n{title}:\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if title in ("datasets", "webdataset"):
        pytest.importorskip(title)
    if title == "datasets":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict = {}
    exec(code, names)
    expected = [index for index in range(12) if index not in failed]
    if "signals" in names:
        signals = list(names["signals"])
        assert len(signals) == len(expected)
    else:
        signals = [names["signal"]]
    for signal, index in zip(signals, expected, strict=False):
        assert np.asarray(signal).shape == (1024, 12)
        assert np.abs(signal - made(index).signal).max() <= 0.00051


@each_format
def test_card(tmp_path, form):
    write_card(tmp_path, plan_of(form), FACTS, 11, 1)
    texts = {name: (tmp_path / name).read_text() for name in ("README.md", "LICENSE.md")}
    front = yaml.safe_load(texts["README.md"].split("---\n")[1])
    assert (front["license"], front["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    patterns = [part["path"] for config in front.get("configs", []) for part in config["data_files"]]
    assert patterns == {"parquet": ["data/*.parquet"], "webdataset": ["data/*.tar"], "wfdb": []}[form]
    assert texts["README.md"].count(NOTICE) == 1
    for word in ("11 of 12 items; 1 failed", FACTS.model_digest, "dpmpp, 25 steps", "102.4 Hz", "aVR, aVF, aVL"):
        assert word in texts["README.md"]
    assert "CC-BY-4.0" in texts["LICENSE.md"] and "PTB-XL" in texts["LICENSE.md"]
    assert str(tmp_path) not in "".join(texts.values())
    write_card(tmp_path, plan_of(form), FACTS, 11, 1)
    assert {name: (tmp_path / name).read_text() for name in texts} == texts


@pytest.mark.parametrize(
    ("licence", "front", "said"),
    [
        (None, ["unknown"], "has chosen no licence"),
        ("our: own\nterms", ["other", "our: own terms", "LICENSE.md"], "    our: own\n    terms"),
    ],
)
def test_card_of_other_licences_and_models(tmp_path, licence, front, said):
    write_card(tmp_path, plan_of("parquet", licence), replace(FACTS, model="own"), 20_000, 0)
    found = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert [value for key, value in found.items() if key.startswith("license")] == front
    assert found["size_categories"] == ["10K<n<100K"]
    terms = (tmp_path / "LICENSE.md").read_text()
    assert said in terms and "PTB-XL" not in terms and "model card" in terms


_WRITER = """\
import json, resource, sys
from pathlib import Path
from shard_samples import FACTS, made
from ecgtwin_fast.dataset.formats import FORMATS, open_format
from ecgtwin_fast.dataset.shard import write_shard
out, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for form in FORMATS:
    try:
        write_shard(out, open_format(form), 0, 0, 4, [made(index) for index in range(4)], [], FACTS)
    except OSError as error:
        left = [path.name for path in out.rglob("*") if path.is_file()]
        print(json.dumps([form, error.errno, left]))
"""


def errors_of_writers(out: Path, limit: int) -> list:
    """Format, errno and files left of each format's attempt to write a shard where files are limited to `limit`."""
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(out), str(limit)], cwd=Path(__file__).parent,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_room_leaves_nothing(tmp_path):
    assert errors_of_writers(tmp_path, 20_000) == [[form, errno.EFBIG, []] for form in FORMATS]


def test_full_disk_leaves_nothing(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        found = errors_of_writers(tmp_path, resource.RLIM_INFINITY)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert found == [[form, errno.ENOSPC, []] for form in FORMATS]


def test_leftovers_are_removed(tmp_path):
    entry = shard_of(tmp_path, "wfdb", [made(8)])
    kept = {path for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("data/.writing-1-shard-00000.parquet", ".writing-2-manifest.jsonl", "records/.writing-3-00001/x.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"half")
    assert len(remove_leftovers(tmp_path)) == 3
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert os.path.isdir(tmp_path / entry.path)
