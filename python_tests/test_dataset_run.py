"""A plan becomes a complete data set, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from dataset_tools import Setting, StandIn, content, make, records

from ecgtwin_fast.cli import main
from ecgtwin_fast.dataset.engine import LocalEngine
from ecgtwin_fast.dataset.job import Job
from ecgtwin_fast.dataset.run import make_dataset
from ecgtwin_fast.dataset.sampling import Stopped
from ecgtwin_fast.dataset.verify import verify
from ecgtwin_fast.dataset.worker import Worker
from ecgtwin_fast.dataset.yaml_tree import PlanError
from ecgtwin_fast.errors import BackendError, ECGTwinError, StoreError


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def undisturbed(setting, tmp_path_factory):
    """The data set of the setting's plan, made in one go by the tiny model."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    make(setting.plan(), out)
    return out


def problems(out):
    return verify(out, progress=False).problems


def log(out):
    return [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]


def failures(out):
    return pq.read_table(out / "failed.parquet").to_pylist()


def test_every_item_becomes_a_record_that_the_model_itself_would_make(setting, undisturbed):
    from ecgtwin_fast import ECGTwin
    from ecgtwin_fast.data.record import read_record

    assert problems(undisturbed) == []
    table = pq.read_table(undisturbed / "data").to_pylist()
    assert [row["index"] for row in table] == list(range(24))
    row = table[21]
    assert (row["reference"], row["condition"], row["twin"]) == ("ref-2", 1, 1)
    assert (row["report"], row["heart_rate"]) == ("atrial fibrillation|rapid ventricular response", 130)
    assert (row["age"], row["sex"]) == (42, "F")
    model = ECGTwin.from_pretrained(setting.model)
    reference = read_record(setting.references / "ref-2.hea")
    (twin,) = model.generate(reference, row["report"], 130, count=1, steps=2, seed=7, first_index=21)
    made = np.array(row["signal"], np.int16).reshape(1024, 12) / row["gain"]
    assert np.abs(made - twin.signal).max() <= np.abs(twin.signal).max() / 65000


@pytest.mark.parametrize("batch_size", [1, 24])
def test_the_batch_changes_no_byte(setting, undisturbed, tmp_path, batch_size):
    make(setting.plan(name="other.yaml", batch_size=batch_size), tmp_path / "out")
    assert records(tmp_path / "out") == records(undisturbed)


@pytest.mark.parametrize("threads", [1, 5])
def test_the_number_of_threads_changes_no_byte(setting, undisturbed, tmp_path, threads):
    make_dataset(setting.plan(), tmp_path / "out", lambda job, log: LocalEngine(job, threads))
    assert content(tmp_path / "out") == content(undisturbed)


def test_a_run_leaves_the_number_of_threads_alone(setting, tmp_path):
    before = torch.get_num_threads()
    make_dataset(setting.plan(), tmp_path / "out", lambda job, log: LocalEngine(job, threads=before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("form", ["wfdb", "webdataset"])
def test_other_formats(setting, undisturbed, tmp_path, form):
    summary = make(setting.plan(name="form.yaml", form=form), tmp_path / "out")
    assert (summary.records, summary.failed) == (24, 0)
    assert problems(tmp_path / "out") == []


def test_a_complete_data_set_is_left_alone(setting, undisturbed):
    before = content(undisturbed)

    def refuse(job, log):
        raise AssertionError("no worker is needed")

    summary = make_dataset(setting.plan(), undisturbed, refuse)
    assert (summary.records, summary.made) == (24, 0)
    assert content(undisturbed) == before


def test_what_a_run_shows(setting, tmp_path, capfd):
    out = tmp_path / "out"
    make(setting.plan(), out, StandIn(), metrics=tmp_path / "numbers.prom")
    status = json.loads((out / "run" / "status.json").read_text())
    assert (status["state"], status["records"], status["total"], status["failed"]) == ("complete", 24, 24, 0)
    assert 0 < status["device_busy"] <= 1 and status["seconds_left"] == 0 and status["records_per_second"] > 0
    assert [line["event"] for line in log(out)] == ["begun", *["shard"] * 4, "complete"]
    numbers = (tmp_path / "numbers.prom").read_text().splitlines()
    assert "# TYPE ecgtwin_dataset_records_total counter" in numbers and "ecgtwin_dataset_records_total 24" in numbers
    assert "24/24" in capfd.readouterr().err


def test_not_a_number_is_tried_again(setting, tmp_path):
    once = {3, 17}

    def spoil(index, signal):
        if index in once:
            once.remove(index)
            signal[5, 2] = np.nan

    summary = make(setting.plan(), tmp_path / "out", StandIn(spoil))
    assert (summary.records, summary.failed) == (24, 0) and problems(tmp_path / "out") == []
    retried = [line["what"] for line in log(tmp_path / "out") if line["event"] == "retried"]
    assert retried == ["items 0..4: sampled 2 times", "items 14..18: sampled 2 times"]
    make(setting.plan(), tmp_path / "clean", StandIn())
    assert content(tmp_path / "out") == content(tmp_path / "clean")


def test_what_stays_not_a_number_is_recorded_as_failed(setting, tmp_path):
    out = tmp_path / "out"

    def spoil(index, signal):
        if index in (3, 17):
            signal[5, 2] = np.nan
        if index == 20:
            signal[5, 3] = 40

    summary = make(setting.plan(), out, StandIn(spoil))
    assert (summary.records, summary.failed) == (21, 3) and problems(out) == []
    found = [(row["index"], row["reference"], row["reason"]) for row in failures(out)]
    assert found == [(3, "ref-0", "not finite"), (17, "ref-2", "not finite"), (20, "ref-2", "amplitude out of range")]
    make(setting.plan(), out, StandIn(), retry_failed=True)
    make(setting.plan(), tmp_path / "clean", StandIn())
    assert failures(out) == [] and content(out) == content(tmp_path / "clean")


def test_an_item_that_the_model_cannot_take_does_not_take_its_batch_along(setting, tmp_path):
    def fail(index, signal):
        if index == 9:
            raise RuntimeError("out of memory")

    make(setting.plan(), tmp_path / "out", StandIn(fail))
    assert [(row["index"], row["message"]) for row in failures(tmp_path / "out")] == [
        (9, "the model fails: out of memory")
    ]
    assert problems(tmp_path / "out") == []


def test_a_backend_that_cannot_run_ends_the_run(setting, tmp_path):
    def fail(index, signal):
        raise BackendError("backend 'cpu' cannot run: no AVX2")

    with pytest.raises(BackendError, match="no AVX2"):
        make(setting.plan(), tmp_path / "out", StandIn(fail))
    assert json.loads((tmp_path / "out" / "run" / "status.json").read_text())["state"] == "stopped"


def test_an_unreadable_reference_fails_its_items_alone(tmp_path, capsys):
    own = Setting(tmp_path)
    plan, out = own.write_plan(), tmp_path / "out"
    signal = own.references / "ref-1.dat"
    whole = signal.read_bytes()
    signal.write_bytes(whole[:100])
    assert main(["dataset", str(plan), str(out)]) == 1
    assert "failed     8" in capsys.readouterr().out
    assert [row["index"] for row in failures(out)] == list(range(8, 16))
    assert {row["reason"] for row in failures(out)} == {"truncated or damaged"}
    assert failures(out)[0]["message"].startswith("ref-1")
    assert main(["dataset", "--verify", str(out)]) == 0
    assert "16 records, 8 failed items" in capsys.readouterr().out

    signal.write_bytes(whole)
    assert main(["dataset", str(plan), str(out)]) == 1
    assert main(["dataset", str(plan), str(out), "--retry-failed"]) == 0
    assert main(["dataset", str(plan), str(tmp_path / "clean")]) == 0
    assert content(out) == content(tmp_path / "clean")


def test_a_reference_that_comes_back_is_read_again(setting, tmp_path, monkeypatch):
    from ecgtwin_fast.dataset import references

    load, calls = references.SourceReferences.load, []

    def sometimes(self, number):
        calls.append(number)
        if calls.count(number) == 1:
            raise OSError("the network is away")
        return load(self, number)

    monkeypatch.setattr(references.SourceReferences, "load", sometimes)
    summary = make(setting.plan(), tmp_path / "out", StandIn())
    assert summary.failed == 0 and calls == [0, 0, 1, 1, 2, 2]


def test_a_folder_with_another_plans_data_is_refused_with_the_line(setting, undisturbed, capsys):
    before = content(undisturbed)
    other = setting.write_plan(name="seed.yaml", seed=8)
    assert main(["dataset", str(other), str(undisturbed)]) == 2
    error = capsys.readouterr().err
    assert f"{other}:6: seed is 8" in error and "choose another folder" in error
    assert content(undisturbed) == before


def test_a_folder_with_other_files_is_refused(setting, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ECGTwinError, match="thesis.tex"):
        make(setting.plan(), tmp_path, StandIn())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_changed_references_are_refused(tmp_path):
    own = Setting(tmp_path)
    make(own.plan(), tmp_path / "out", StandIn())
    for suffix in (".hea", ".dat"):
        shutil.copy(own.references / f"ref-0{suffix}", own.references / f"ref-3{suffix}")
    with pytest.raises(PlanError, match=r"plan.yaml:1: references changed since"):
        make(own.plan(), tmp_path / "out", StandIn())


def test_another_backend_does_not_go_on_with_it(setting, tmp_path):
    def stop(index, signal):
        if index == 8:
            raise BackendError("enough")

    with pytest.raises(BackendError, match="enough"):
        make(setting.plan(), tmp_path / "out", StandIn(stop))
    with pytest.raises(PlanError, match="backend is 'reference on cuda' here, but .* was begun with 'cpu'"):
        make(setting.plan(), tmp_path / "out", StandIn(backend="reference on cuda"))


def test_a_second_run_in_the_same_folder_is_refused(setting, tmp_path):
    def again(index, signal):
        if index == 0:
            with pytest.raises(StoreError, match="another process is at work"):
                make(setting.plan(), tmp_path / "out", StandIn())

    assert make(setting.plan(), tmp_path / "out", StandIn(again)).failed == 0


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(setting, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(ECGTwinError, match="the disk is full .* records are finished and stay: make room"):
            make(setting.plan(), disk / "out", StandIn())
        done = [line for line in log(disk / "out") if line["event"] == "shard"]
        assert 0 < len(done) < 4
        assert not [path for path in (disk / "out").rglob("*") if path.name.startswith(".writing")]
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        make(setting.plan(), disk / "out", StandIn())
        make(setting.plan(), tmp_path / "clean", StandIn())
        assert content(disk / "out") == content(tmp_path / "clean") and problems(disk / "out") == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_shard_that_no_worker_survives_is_given_up(setting, tmp_path):
    class Deadly(LocalEngine):
        def run(self, shards, giving_up):
            for shard in shards:
                yield giving_up(shard, "no worker survived it") if shard == 2 else self._worker.make(shard)

    make_dataset(setting.plan(), tmp_path / "out", lambda job, log: Deadly(job, compute=StandIn()))
    assert [row["index"] for row in failures(tmp_path / "out")] == list(range(14, 21))
    assert {row["reason"] for row in failures(tmp_path / "out")} == {"worker died"}
    assert problems(tmp_path / "out") == []


def test_a_worker_makes_two_shards_at_once_and_closes_at_a_step(setting, tmp_path):
    going, hold = threading.Event(), threading.Event()

    def wait(index, signal):
        if index >= 14:
            going.set()
            hold.wait(5)

    worker = Worker(Job(setting.plan(), str(tmp_path / "out")), compute=StandIn(wait))
    results = {}

    def run(shard):
        try:
            results[shard] = worker.make(shard).entry.records
        except Stopped as error:
            results[shard] = type(error)

    threads = [threading.Thread(target=run, args=(shard,)) for shard in (0, 2, 3)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    assert going.wait(5)
    closing = threading.Thread(target=worker.close)
    closing.start()
    time.sleep(0.05)
    hold.set()
    for thread in (closing, *threads):
        thread.join(5)
    assert results == {0: 7, 2: Stopped, 3: Stopped}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.parquet")) == ["shard-00000.parquet"]


def test_a_closed_worker_makes_nothing(setting, tmp_path):
    """A run that is interrupted just as it hands out a shard would else wait for ever."""
    worker = Worker(Job(setting.plan(), str(tmp_path / "out")), compute=StandIn())
    worker.close()
    with pytest.raises(Stopped):
        worker.make(0)
    worker.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan.yaml"], "PLAN and OUT are needed"),
        (["--verify", "out", "--repair", "plan.yaml"], "takes the data set's folder alone"),
        (["plan.yaml", "out", "--repair"], "--repair goes with --verify"),
        (["plan.yaml", "out", "--workers", "2"], "are of --engine ray"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["dataset", *arguments])
    assert message in capsys.readouterr().err


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["dataset", "--help"])
    text = capsys.readouterr().out
    assert "references: {simulated: 50}" in text and "--engine ray --address auto" in text
    assert "not for diagnosis" in text


def test_what_was_damaged_is_repaired_by_the_same_command(setting, undisturbed, tmp_path, capsys):
    out, plan = tmp_path / "out", setting.write_plan()
    shutil.copytree(undisturbed, out)
    damaged = out / "data" / "shard-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(["dataset", "--verify", str(out), "--repair"]) == 1
    text = capsys.readouterr().out
    assert "shard-00002.parquet: is damaged" in text and "1 shards forgotten" in text
    assert main(["dataset", str(plan), str(out)]) == 0
    assert main(["dataset", "--verify", str(out)]) == 0
    assert content(out) == content(undisturbed)
