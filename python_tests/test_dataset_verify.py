"""Verification: a whole data set has no problem, and each planted damage is found, named and mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from shard_samples import FACTS, failure, write_dataset

from ecgtwin_fast.dataset.durable import fingerprint
from ecgtwin_fast.dataset.formats import FORMATS, open_format
from ecgtwin_fast.dataset.items import Failed
from ecgtwin_fast.dataset.manifest import MANIFEST, DatasetError, Manifest, rewrite, write_failed
from ecgtwin_fast.dataset.verify import repair, verify

each_format = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for form in FORMATS:
        write_dataset(folder / form, form)
    return folder


@pytest.fixture
def out(originals, tmp_path, form):
    """A whole data set of 12 items in three shards, of which item 5 failed."""
    return Path(shutil.copytree(originals / form, tmp_path / "out"))


def shard_file(out: Path, form: str, shard: int = 1) -> Path:
    """A file with signals of a shard."""
    path = out / open_format(form).path(shard)
    return sorted(path.glob("*.dat"))[-1] if path.is_dir() else path


def problems(out: Path) -> list[str]:
    return verify(out, progress=False).problems


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@each_format
def test_a_whole_data_set(out, form, capsys):
    (out / "run").mkdir()
    (out / "run" / "log.jsonl").write_text("{}\n")
    before = contents(out)
    found = verify(out)
    assert found.problems == [] and found.damaged == set()
    assert (found.records, found.failed, found.shards) == (11, 1, 3) and found.seconds > 0
    assert contents(out) == before
    assert "12/12" in capsys.readouterr().err


@each_format
def test_an_unfinished_data_set(tmp_path, form):
    write_dataset(tmp_path / "out", form, shards=[2, 0])
    found = verify(tmp_path / "out", progress=False)
    (problem,) = found.problems
    assert problem.endswith("4 of 12 records are missing; the same dataset command makes them")
    assert (found.records, found.failed, found.shards, found.damaged) == (8, 0, 2, set())


def test_all_there_but_not_finished(tmp_path):
    write_dataset(tmp_path / "out", "parquet")
    identity = json.loads((tmp_path / "out" / "dataset.json").read_text())
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(identity | {"complete": False}))
    (problem,) = problems(tmp_path / "out")
    assert "the data set is not complete" in problem


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@each_format
@pytest.mark.parametrize(("damage", "word"), [(truncate, "is damaged"), (flip, "is damaged"), (Path.unlink, "")])
def test_damaged_shards_are_found_and_made_again(out, form, damage: Callable, word, originals):
    damage(shard_file(out, form))
    found = verify(out, progress=False)
    (problem,) = found.problems
    assert str(out / open_format(form).path(1)) in problem and word in problem and "--repair" in problem
    assert found.damaged == {1}
    assert repair(out, found) == {1}
    assert Manifest(out).done() == {0, 2}
    identity = json.loads((out / "dataset.json").read_text())
    assert identity["complete"] is False and "records" not in identity
    write_dataset(out, form)
    assert problems(out) == []
    assert contents(out) == contents(originals / form)


@each_format
def test_missing_shards(out, form):
    path = out / open_format(form).path(2)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (problem,) = problems(out)
    assert f"{path}: is missing" in problem


@each_format
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("data/shard-00003.parquet", "does not name it"),
        ("records/00003/x.dat", "does not name it"),
        ("notes.txt", "does not name it"),
        ("data/.writing-12-shard-00003.tar", "killed writer"),
        ("records/.writing-12-00003/x.dat", "killed writer"),
    ],
)
def test_files_that_do_not_belong(out, form, name, word):
    (out / name).parent.mkdir(exist_ok=True, parents=True)
    (out / name).write_bytes(b"x")
    (problem,) = problems(out)
    assert word in problem and problem.split(":")[0] in str(out / name)


def test_a_file_in_a_shards_folder(originals, tmp_path):
    out = Path(shutil.copytree(originals / "wfdb", tmp_path / "out"))
    (out / "records" / "00001" / "extra.dat").write_bytes(b"x")
    (problem,) = problems(out)
    assert f"{out / 'records' / '00001'}: is damaged" in problem


def forge(out: Path, form: str, shard: int, change: Callable[[list], list], **entry_fields) -> None:
    """Change a shard's records, and its manifest line too, so that only the content is wrong."""
    fmt = open_format(form)
    entries = Manifest(out).entries
    path = out / entries[shard].path
    rows = change(list(fmt.read(path)))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    fmt.write(path, shard, rows, FACTS)
    size, digest = fingerprint(path)
    entries[shard] = replace(entries[shard], bytes=size, sha256=digest, **entry_fields)
    rewrite(out / MANIFEST, entries)
    for name, parts in fmt.tables(out, entries).items():
        (out / name).write_bytes(b"".join(parts))


def first(**values) -> Callable[[list], list]:
    return lambda rows: [replace(rows[0], **values), *rows[1:]]


def sample(value: int) -> Callable[[list], list]:
    def change(rows: list) -> list:
        signal = rows[0].signal.copy()
        signal[3, 4] = value
        return [replace(rows[0], signal=signal), *rows[1:]]

    return change


FORGERIES = {
    "doubled": (lambda rows: [rows[0], rows[0], *rows[2:]], ["holds 1 items (8) twice", "lacks 1 items (9)", "equal"]),
    "added": (lambda rows: [*rows, rows[3]], ["holds 1 items (11) twice", "holds 5 records", "equal"]),
    "lost": (lambda rows: rows[:3], ["lacks 1 items (11)", "holds 3 records"]),
    "foreign": (first(index=3), ["holds 1 items (3) of another shard", "lacks 1 items (8)"]),
    "disordered": (lambda rows: rows[::-1], ["in order"]),
    "same signal": (lambda rows: [replace(rows[0], signal=rows[1].signal, gain=rows[1].gain), *rows[1:]], ["equal"]),
    "missing sample": (sample(-32768), ["a sample of -32768"]),
    "heart rate": (first(heart_rate=500.0), ["heart rate out of range in 1 records (8)"]),
    "heart rate NaN": (first(heart_rate=float("nan")), ["heart rate out of range in 1 records (8)"]),
    "age": (first(age=-1.0), ["age out of range in 1 records (8)"]),
    "sex": (first(sex="X"), ["sex unknown in 1 records (8)"]),
    "report": (first(report=" | "), ["empty report in 1 records (8)"]),
    "seed": (first(seed=8), ["a seed other than 7 in 1 records (8)"]),
    "model": (first(model="other"), ["another model's digest in 1 records (8)"]),
}


@each_format
@pytest.mark.parametrize("name", FORGERIES)
def test_wrong_content_under_a_right_checksum(out, form, name):
    change, expected = FORGERIES[name]
    forge(out, form, 2, change)
    found = problems(out)
    for words in expected:
        words = "have the signal of another one" if words == "equal" else words
        assert sum(words in problem for problem in found) == 1, found
    assert len(found) == len(expected), found


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (float("nan"), "a gain that is not finite and positive"),
        (float("inf"), "a gain that is not finite and positive"),
        (0.0, "a gain that is not finite and positive"),
        (-1000.0, "a gain that is not finite and positive"),
        (500.0, "an amplitude beyond 32.767 mV"),
    ],
)
def test_wrong_gains(out, form, gain, words):
    forge(out, form, 0, first(gain=gain))
    (problem,) = problems(out)
    assert f"{words} in 1 records (0)" in problem and str(out / open_format(form).path(0)) in problem


@pytest.mark.parametrize("form", ["wfdb"])
def test_a_header_that_disagrees_with_its_table(out, form):
    def change(out: Path) -> None:
        header = out / "records" / "00002" / "000000000009.hea"
        header.write_bytes(header.read_bytes().replace(b"record index: 9", b"record index: 8"))

    change(out)
    entries = Manifest(out).entries
    size, digest = fingerprint(out / entries[2].path)
    rewrite(out / MANIFEST, [*entries[:2], replace(entries[2], bytes=size, sha256=digest)])
    found = problems(out)
    assert "000000000009.hea: lacks the line '# Seed: 7, record index: 9'" in found[0]


@pytest.mark.parametrize("form", ["parquet"])
class TestManifest:
    def test_a_corrupted_line(self, out, form, originals):
        lines = (out / MANIFEST).read_bytes().splitlines(keepends=True)
        lines[1] = lines[1].replace(b'"records": 3', b'"records": 4')
        (out / MANIFEST).write_bytes(b"".join(lines))
        found = verify(out, progress=False)
        assert f"{MANIFEST}:2: the line does not agree with its own checksum" in found.problems[0]
        assert any("4 of 12 records are missing" in problem for problem in found.problems)
        assert repair(out, found) == set()
        write_dataset(out, form)
        assert problems(out) == [] and contents(out) == contents(originals / form)

    def test_a_torn_line(self, out, form):
        (out / MANIFEST).write_bytes((out / MANIFEST).read_bytes()[:-20])
        found = problems(out)
        assert any("4 of 12 records are missing" in problem for problem in found)
        assert any("shard-00002.parquet: the manifest does not name it" in problem for problem in found)

    def test_a_shard_entered_twice(self, out, form):
        entries = Manifest(out).entries
        rewrite(out / MANIFEST, [*entries, replace(entries[1], first=0)])
        found = verify(out, progress=False)
        assert "shard 1 is entered twice" in found.problems[0] and found.damaged == {1}
        repair(out, found)
        assert Manifest(out).done() == {0, 2}

    def test_items_of_two_shards(self, out, form):
        entries = Manifest(out).entries
        rewrite(out / MANIFEST, [entries[0], replace(entries[1], first=2), entries[2]])
        found = problems(out)
        assert any("shard 1 has items 2..5, not its own" in problem for problem in found)

    def test_a_path_that_is_no_shards(self, out, form):
        entries = Manifest(out).entries
        rewrite(out / MANIFEST, [replace(entries[0], path="../elsewhere.parquet"), *entries[1:]])
        assert any("no format has a shard 0 of this name" in problem for problem in problems(out))

    def test_a_failure_that_is_a_record_too(self, out, form):
        entries = Manifest(out).entries
        rewrite(out / MANIFEST, [replace(entries[0], failed=(failure(2),)), *entries[1:]])
        found = problems(out)
        assert any("holds 1 items (2) twice" in problem for problem in found)

    def test_counts_of_dataset_json(self, out, form):
        identity = json.loads((out / "dataset.json").read_text())
        (out / "dataset.json").write_text(json.dumps(identity | {"records": 12, "failed": 0, "shards": 4}))
        found = problems(out)
        assert [problem.split(": ", 1)[1] for problem in found] == [
            "shards is 4, the manifest has 3", "records is 12, the manifest has 11", "failed is 0, the manifest has 1",
        ]  # fmt: skip

    def test_total_of_dataset_json(self, out, form):
        identity = json.loads((out / "dataset.json").read_text())
        (out / "dataset.json").write_text(json.dumps(identity | {"total": 10}))
        found = problems(out)
        assert any("shard 2 has items 8..11, not its own" in problem for problem in found)
        assert any("2 items more than the 10" in problem for problem in found)


@pytest.mark.parametrize("form", ["parquet"])
@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "holds no data set"), ("{", "not a JSON object"), ("[]", "not a JSON object"), ("{}", "facts, total")],
)
def test_without_dataset_json(out, form, content, word):
    (out / "dataset.json").unlink()
    if content is not None:
        (out / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=word):
        verify(out)


@each_format
@pytest.mark.parametrize("name", ["README.md", "LICENSE.md", "failed.parquet", "plan.yaml", "records.csv"])
def test_missing_parts(out, form, name):
    if (out / name).exists():
        os.unlink(out / name)
        (problem,) = problems(out)
        assert f"{out / name}: is missing" in problem
    else:
        assert (form, name) not in {("wfdb", "records.csv")}


@pytest.mark.parametrize("form", ["parquet"])
@pytest.mark.parametrize("damage", ["other", "more", "none", "garbage"])
def test_failures_that_the_manifest_does_not_have(out, form, damage):
    entry = Manifest(out).entries[1]
    other = {
        "other": (replace(entry.failed[0], message="other"),),
        "more": (*entry.failed, Failed(6, "ref", "NaN", "NaN")),
        "none": (),
    }
    write_failed(out, [replace(entry, failed=other.get(damage, ()))])
    if damage == "garbage":
        (out / "failed.parquet").write_bytes(b"garbage")
    (problem,) = problems(out)
    assert "failed.parquet: is not what the manifest says" in problem


@pytest.mark.parametrize("form", ["wfdb"])
@pytest.mark.parametrize("change", [lambda text: text.replace("person 0", "person 1", 1), lambda text: text[:-9]])
def test_a_table_that_the_shards_do_not_have(out, form, change):
    (out / "records.csv").write_text(change((out / "records.csv").read_text()))
    (problem,) = problems(out)
    assert "records.csv: is not what the shards say" in problem


def test_facts_are_those_of_the_records(tmp_path):
    write_dataset(tmp_path / "out", "parquet")
    identity = json.loads((tmp_path / "out" / "dataset.json").read_text())
    facts = asdict(replace(FACTS, seed=9))
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(identity | {"facts": facts}))
    found = problems(tmp_path / "out")
    assert len(found) == 3 and all("a seed other than 9 in" in problem for problem in found)


def test_memory_stays_small(tmp_path):
    """A record's place and 64 bits of its signal's hash are all that is kept."""
    import tracemalloc

    write_dataset(tmp_path / "out", "parquet", shards=range(16), failed=(), total=64)
    verify(tmp_path / "out", progress=False)
    tracemalloc.start()
    verify(tmp_path / "out", progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * np.dtype(np.int16).itemsize * 1024 * 12
