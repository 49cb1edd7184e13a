"""prepare: every record ends in the store or among the rejected, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ecg_samples import CLINICAL, real_records, sample_record

from ecgtwin_fast.cli import main
from ecgtwin_fast.data import prepare as prepare_module
from ecgtwin_fast.data.lock import locked
from ecgtwin_fast.data.prepare import prepare_records, worker_pool
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.ptbxl_table import read_rows
from ecgtwin_fast.data.record import Record, write_wfdb
from ecgtwin_fast.data.sources import FolderSource, PTBXLSource, SimulatedSource, in_test_fold
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.errors import ECGTwinError, RecordError, StoreError

SIMULATED = ["simulated", "12", "--visits", "2", "--shard-size", "5", "--text-width", "16", "--workers", "1"]


def run(*arguments) -> int:
    return main(["prepare", *map(str, arguments)])


def simulated(out: Path, *options: str) -> Store:
    assert run(*SIMULATED[:2], out, *SIMULATED[2:], *options) == 0
    return Store(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("stores") / "whole")


# --- one record


def cut(path: Path) -> None:
    os.truncate(path.with_suffix(".dat"), 50_000)


def with_units(lead: str, value: int, samples: slice):
    def change(path: Path) -> None:
        units = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
        units[samples, CLINICAL.index(lead)] = value
        units.tofile(path.with_suffix(".dat"))

    return change


def without(*suffixes: str):
    def change(path: Path) -> None:
        for suffix in suffixes:
            path.with_suffix(suffix).unlink()

    return change


def replaced(record: Record):
    return lambda path: write_wfdb(record, path.parent, path.name)


def damaged_header(path: Path) -> None:
    path.with_suffix(".hea").write_text("")


DRIFT = Record(np.linspace(0, 0.5, 5000)[:, None] * np.ones((1, 12)), 500, CLINICAL)
DEFECTS = {
    "none": (lambda path: None, {}, None, ""),
    "truncated .dat": (cut, {}, "truncated or damaged", "not readable as WFDB"),
    "empty .hea": (damaged_header, {}, "truncated or damaged", "not readable as WFDB"),
    "no .hea": (without(".hea"), {}, "missing header", ".hea: no such file"),
    "no .dat": (without(".dat"), {}, "missing signal file", ".dat: no such file"),
    "neither": (without(".hea", ".dat"), {}, "missing record", ".hea: no such file"),
    "NaN": (with_units("V3", -32768, slice(7, 9)), {}, "NaN", "lead V3 holds 2 missing or infinite samples"),
    "flat": (with_units("aVL", 55, slice(None)), {}, "flat lead", "lead aVL is flat"),
    "large": (with_units("II", 21_000, slice(40, 41)), {}, "large amplitude", "lead II reaches 21.0 mV"),
    "short": (replaced(sample_record(seconds=8)), {}, "too short", "8 s long, expected at least 10 s"),
    "few leads": (replaced(sample_record(leads=("I", "II", "V1"))), {}, "missing leads", "missing leads V2"),
    "slow": (replaced(sample_record(40)), {}, "low sampling rate", "sampling rate 40 Hz"),
    "no beats": (replaced(DRIFT), {}, "no heart rate", "no heartbeats found by XQRS"),
    "no age": (lambda path: None, {"age": ""}, "age unknown", "age is missing"),
    "negative age": (lambda path: None, {"age": "-3"}, "age out of range", "age is -3: expected 0..120 years"),
    "no sex": (lambda path: None, {"sex": ""}, "sex unknown", "expected 'F' or 'M'"),
    "no report": (lambda path: None, {"codes": "{}"}, "empty report", "the report is empty"),
}


@pytest.fixture(scope="module")
def defective(tmp_path_factory):
    """A PTB-XL with one record of each defect."""
    root = tmp_path_factory.mktemp("ptb-xl")
    lines = ["ecg_id,patient_id,age,sex,recording_date,scp_codes,strat_fold,filename_lr,filename_hr"]
    for number, (change, row, _, _) in enumerate(DEFECTS.values(), start=1):
        path = root / "records500" / f"{number:05d}_hr"
        write_wfdb(sample_record(bpm=60 + number), path.parent, path.name)
        change(path)
        row = {"age": "56", "sex": "1", "codes": "{'SR': 0.0}"} | row
        lines.append(
            f'{number},{number}.0,{row["age"]},{row["sex"]},1984-11-0{1 + number % 9} 09:17:34,"{row["codes"]}",'
            f"{number % 10 + 1},lr,records500/{path.name}"
        )
    (root / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    (root / "scp_statements.csv").write_text(",description\nSR,sinus rhythm\n")
    return root


@pytest.fixture(scope="module")
def results(defective):
    return dict(zip(DEFECTS, prepare_records(list(PTBXLSource(defective))), strict=True))


@pytest.mark.parametrize("defect", list(DEFECTS)[1:])
def test_a_defective_record_is_rejected_with_its_reason(results, defect):
    _, _, reason, message = DEFECTS[defect]
    number = list(DEFECTS).index(defect) + 1
    rejected = results[defect]
    assert (rejected.name, rejected.reason) == (f"records500/{number:05d}_hr", reason)
    assert message in rejected.message and f"{number:05d}_hr" in rejected.message and "\n" not in rejected.message


def test_a_good_record_keeps_what_the_table_says(results, defective):
    entry, expected = results["none"], prepare(sample_record(bpm=61))
    assert (entry.patient, entry.age, entry.sex, entry.statements) == ("1", 56.0, "F", ["sinus rhythm"])
    assert entry.time == np.datetime64("1984-11-02T09:17:34") and entry.test is False
    assert abs(entry.heart_rate - 61) < 1
    assert np.abs(entry.signal / entry.gain - expected.signal).max() < 1e-3


def test_unknown_age_and_sex_can_be_kept(defective):
    source = PTBXLSource(defective)
    no_age, no_sex = (source[list(DEFECTS).index(name)] for name in ("no age", "no sex"))
    kept = prepare_records([no_age, no_sex], keep_unknown=True)
    assert [(entry.age, entry.sex) for entry in kept] == [(None, "F"), (56.0, None)]


def test_an_unexpected_error_rejects_one_record():
    class Strange:
        name = "strange"

        def load(self):
            raise ZeroDivisionError("by zero")

    first, second = prepare_records([Strange(), SimulatedSource(1, 1, 0, 0.1)[0]])
    assert (first.reason, first.message) == ("unexpected error", "strange: ZeroDivisionError: by zero")
    assert second.name == "patient-0/visit-0"


def test_running_out_of_memory_rejects_nothing():
    class Large:
        name = "large"

        def load(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        prepare_records([Large()])


# --- data sets


def test_a_defective_data_set_becomes_a_store(defective, tmp_path, capsys):
    assert run("ptb-xl", defective, tmp_path / "store", "--workers", "1", "--text-width", "8") == 0
    store = Store(tmp_path / "store")
    assert len(store) == 1 and store.name(0) == "records500/00001_hr"
    reasons = [reason for _, _, reason, _ in DEFECTS.values() if reason]
    assert store.rejected == {reason: reasons.count(reason) for reason in reasons}
    rejected = pq.read_table(store.path / "rejected.parquet").to_pylist()
    assert [row["reason"] for row in rejected] == reasons
    printed = capsys.readouterr().out
    assert "records    1 of 1 patients" in printed and "rejected   16, listed in" in printed
    assert "2 truncated or damaged" in printed and "--keep-unknown keeps records" in printed


def test_ptbxl_test_fold_is_the_published_one(defective):
    assert [number + 1 for number, record in enumerate(PTBXLSource(defective)) if record.test] == [9]
    assert [row.strat_fold for row in read_rows(defective).values()].index(10) == 8


def test_real_records(tmp_path, capsys):
    data = real_records()
    assert run("ptb-xl", data.root, tmp_path / "store", "--limit", "24", "--workers", "2", "--text-width", "8") == 0
    store = Store(tmp_path / "store")
    rows = list(data.rows.values())[:24]
    assert len(store) + sum(store.rejected.values()) == 24
    by_name = {row.filename_hr: row for row in rows}
    for number in range(len(store)):
        row = by_name[store.name(number)]
        assert (store.age[number], "FM"[int(store.sex[number])]) == (row.age, row.sex)
        assert store.report(number) == row.report and store.test[number] == (row.strat_fold == 10)
        assert str(store.time[number]).replace("T", " ") == row.recording_date
    expected = prepare(data.record(rows[0].ecg_id))
    assert np.abs(store.signals(0)[0] - expected.signal).max() < 1e-4
    assert store.heart_rate[0] == pytest.approx(expected.heart_rate)
    assert "records/s" in capsys.readouterr().out


def write_header(folder: Path, name: str, comments=(), date: str = "") -> None:
    write_wfdb(sample_record(), folder, name, comments=comments)
    header = folder / f"{name}.hea"
    lines = header.read_text().splitlines()
    header.write_text("\n".join([lines[0] + date, *lines[1:]]) + "\n")


def test_a_folder_of_wfdb_records(tmp_path):
    known = ["Age: 63", "Sex: F", "Dx: 426783006,164889003"]
    write_header(tmp_path / "patient001", "b", known, " 10:31:00 23/07/2180")
    write_header(tmp_path / "patient001", "a", ["Age: 64", "Sex: F", "Report: sinus rhythm", "Heart rate: 71"])
    write_header(tmp_path / "g1", "c", [*known, "Patient ID: 17"])
    write_header(tmp_path / "g1", "d", ["Age: 64", "Report: sinus rhythm"])
    source = FolderSource(tmp_path, "auto", 0.1)
    entries = prepare_records(list(source))
    assert [entry.name for entry in entries] == ["g1/c", "g1/d", "patient001/a", "patient001/b"]
    c, d, a, b = entries
    assert (c.patient, a.patient, b.patient) == ("17", "patient001", "patient001")
    assert d.reason == "sex unknown"
    assert (b.age, b.sex, b.statements) == (63, "F", ["sinus rhythm", "atrial fibrillation"])
    assert b.time == np.datetime64("2180-07-23T10:31:00") and a.time is None
    assert a.heart_rate == 71 and abs(b.heart_rate - 72) < 1
    assert [entry.test for entry in (c, a, b)] == [in_test_fold(entry.patient, 0.1) for entry in (c, a, b)]
    by_folder = [entry.patient for entry in prepare_records(list(FolderSource(tmp_path, "folder", 0.1)), True)]
    assert by_folder == ["g1", "g1", "patient001", "patient001"]
    by_record = [entry.patient for entry in prepare_records(list(FolderSource(tmp_path, "record", 0.1)), True)]
    assert by_record == [entry.name for entry in entries]
    with pytest.raises(RecordError, match=r"empty: no WFDB header \(.hea\)"):
        FolderSource(tmp_path / "empty", "auto", 0.1)


def test_simulated_records_depend_on_seed_patient_and_visit_only(whole, tmp_path):
    assert len(whole) == 24 and not whole.real.any() and np.isnat(whole.time).all() and whole.rejected == {}
    assert whole.person.tolist() == [row // 2 for row in range(24)]
    assert len(set(whole.signal_hash)) == 24
    more = simulated(tmp_path / "more", "--limit", "10")
    assert np.array_equal(more.signals(np.arange(10)), whole.signals(np.arange(10)))
    other = simulated(tmp_path / "other", "--seed", "1", "--limit", "10")
    assert not set(other.signal_hash) & set(whole.signal_hash)


def test_the_split_is_by_patient_and_by_nothing_else():
    names = [str(number) for number in range(20_000)]
    drawn = [in_test_fold(name, 0.1) for name in names]
    assert abs(np.mean(drawn) - 0.1) < 0.01
    assert all(in_test_fold(name, 0.2) for name, held in zip(names, drawn, strict=True) if held)
    assert not any(in_test_fold(name, 0.0) for name in names[:100])
    # Of these names, whatever release: a store made later must not move patients to the other side.
    assert [number for number in range(40) if drawn[number]] == [4, 30]


# --- workers, interruptions


def test_two_workers_give_the_same_store(whole, tmp_path):
    assert simulated(tmp_path / "two", "--workers", "2").digest == whole.digest


def test_workers_load_no_torch_and_compute_on_one_thread(defective):
    before = dict(os.environ)
    with worker_pool(2) as pool:
        prepared = pool.map(prepare_records, [list(PTBXLSource(defective))[:1]] * 8)
        assert [entries[0].name for entries in prepared] == ["records500/00001_hr"] * 8
        # A function of this module would have the worker import what this module imports.
        loaded = [pool.submit(eval, "list(__import__('sys').modules)") for _ in range(4)]
        modules = {name for future in loaded for name in future.result()}
        environment = pool.submit(eval, "dict(__import__('os').environ)").result()
    assert {"ecgtwin_fast.data.prepare", "wfdb"} <= modules and not {"torch", "pyarrow.parquet", "sklearn"} & modules
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
    assert dict(os.environ) == before


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_reported():
    with pytest.raises(ECGTwinError, match="a worker process died .* call again to go on"), worker_pool(2) as pool:
        pool.submit(die, None).result()


def start(out: Path, workers: int, patients: int = 12) -> subprocess.Popen:
    command = ["prepare", "simulated", str(patients), str(out), *SIMULATED[2:], "--workers", str(workers)]
    return subprocess.Popen(
        [sys.executable, "-m", "ecgtwin_fast", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_killed_again_and_again_it_goes_on_with_the_same_result(whole, tmp_path):
    out = tmp_path / "store"
    for shards, workers in ((0, 2), (1, 1), (3, 2)):
        process = start(out, workers)
        last = out / "unfinished" / ("work.json" if shards == 0 else f"part-{shards - 1:05d}.json")
        wait_for(lambda process=process, last=last: last.exists() or process.poll() is not None)
        family = children(process) if process.poll() is None else []
        process.kill()
        process.communicate()
        wait_for(lambda family=family: not any(Path(f"/proc/{pid}/exe").exists() for pid in family))
        assert len(list(out.glob("records-*.parquet"))) >= shards - 1
    assert simulated(out).digest == whole.digest


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path / "store", 2, patients=5000)
    wait_for(lambda: (tmp_path / "store" / "records-00000.parquet").exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted: the same command goes on after the last complete shard" in errors
    assert "Traceback" not in errors


def test_only_what_is_left_is_done(whole, tmp_path, monkeypatch):
    out, real, seen = tmp_path / "store", prepare_module.prepare_records, []

    def stopping(listed, keep_unknown):
        seen.extend(record.name for record in listed)
        if len(seen) > 15:
            raise KeyboardInterrupt
        return real(listed, keep_unknown)

    monkeypatch.setattr(prepare_module, "prepare_records", stopping)
    with pytest.raises(SystemExit):
        simulated(out)
    complete = len(list(out.glob("records-*.parquet")))
    assert 1 <= complete < 5
    seen.clear()
    monkeypatch.setattr(
        prepare_module,
        "prepare_records",
        lambda listed, keep_unknown: seen.extend(listed) or real(listed, keep_unknown),
    )
    assert simulated(out).digest == whole.digest
    assert [record.name for record in seen] == [whole.name(row) for row in range(5 * complete, 24)]


def test_finished_it_does_nothing_and_says_so(whole, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.path.iterdir() if path.is_file()}
    monkeypatch.setattr(prepare_module, "prepare_store", None)
    assert run(*SIMULATED[:2], whole.path, *SIMULATED[2:], "--workers", "7") == 0
    printed = capsys.readouterr().out
    assert "is complete: nothing to do" in printed and "records    24 of 12 patients" in printed
    assert {path: path.stat().st_mtime_ns for path in whole.path.iterdir() if path.is_file()} == before


def test_other_work_is_refused(whole, tmp_path, capsys):
    assert run(*SIMULATED[:2], whole.path, *SIMULATED[2:], "--seed", "4") == 2
    assert f"{whole.path}: holds another finished store (seed 0, not 4)" in capsys.readouterr().err
    unfinished = tmp_path / "store" / "unfinished"
    unfinished.mkdir(parents=True)
    work = {"version": 1, "kind": "ptb-xl", "options": {}, "listing": ""}
    (unfinished / "work.json").write_text(json.dumps(work))
    assert run(*SIMULATED[:2], tmp_path / "store", *SIMULATED[2:]) == 2
    assert "holds unfinished work with other kind (ptb-xl, not simulated)" in capsys.readouterr().err


def test_one_process_at_a_time(tmp_path, capsys):
    unfinished = tmp_path / "store" / "unfinished"
    unfinished.mkdir(parents=True)
    with locked(unfinished / "lock"):
        with (
            pytest.raises(StoreError, match="another process is at work here"),
            locked(unfinished / "lock", wait=False),
        ):
            pass
        assert run(*SIMULATED[:2], tmp_path / "store", *SIMULATED[2:]) == 2
    assert "another process is at work here" in capsys.readouterr().err
    simulated(tmp_path / "store")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["simulated", "0", "x"], "out of range, expected at least 1"),
        (["wfdb", "src", "x", "--test-share", "1"], "expected 0 up to, not including, 1"),
        (["ptb-xl", "src", "x", "--test-share", "0.1"], "unrecognized arguments"),
    ],
)
def test_senseless_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind, message",
    [
        ("ptb-xl", "no ptbxl_database.csv here"),
        ("mimic-iv-ecg", "record_list.csv: no such file"),
        ("wfdb", "no WFDB header"),
    ],
)
def test_a_data_set_that_is_not_there_leaves_nothing(tmp_path, kind, message, capsys):
    assert run(kind, tmp_path / "missing", tmp_path / "store", "--text-width", "8") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "store").exists()


def test_help_teaches(capsys):
    for kind in ("ptb-xl", "mimic-iv-ecg", "wfdb", "simulated"):
        with pytest.raises(SystemExit):
            run(kind, "--help")
    printed = capsys.readouterr().out
    assert "unit error" in " ".join(printed.split()) and "--patient-from" in printed
