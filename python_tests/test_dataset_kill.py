"""A run that is killed or interrupted at any moment goes on, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from dataset_tools import Setting, content

from ecgtwin_fast.dataset.verify import verify

KILLS = 10
TWINS, PER_SHARD = 40, 3
ITEMS = 3 * 2 * TWINS
PATIENCE = 240


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def undisturbed(setting, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert start(plan_of(setting), out).wait(PATIENCE) == 0
    return content(out)


def plan_of(setting, **values):
    return setting.write_plan(twins=TWINS, per_shard=PER_SHARD, **values)


def start(plan, out, *options) -> subprocess.Popen:
    command = [sys.executable, "-m", "ecgtwin_fast", "dataset", str(plan), str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def shards(out) -> int:
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def events(out, name) -> list[dict]:
    log = out / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def wait_for(out, count: int, process) -> bool:
    """Whether `count` shards are entered before the process ends."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if shards(out) >= count:
            return True
        time.sleep(0.001)
    return shards(out) >= count


def test_killed_at_ten_random_moments(setting, undisturbed, tmp_path):
    """The moments: some shards after the last one, and up to the time that a shard takes later."""
    rng = random.Random(3)
    out, plan = tmp_path / "out", plan_of(setting)
    kills = 0
    while kills < KILLS:
        process = start(plan, out)
        reached = wait_for(out, shards(out) + rng.randint(1, 7), process)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert reached and process.returncode == -signal.SIGKILL
        kills += 1
    assert 0 < shards(out) < ITEMS // PER_SHARD
    process = start(plan, out)
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    assert verify(out, progress=False).problems == []
    assert content(out) == undisturbed


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(setting, undisturbed, tmp_path, stop):
    out, plan = tmp_path / "out", plan_of(setting)
    process = start(plan, out)
    assert wait_for(out, 5, process)
    os.kill(process.pid, stop)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "interrupted: finished shards stay, and the same command goes on after them" in errors
    assert "Traceback" not in errors
    assert json.loads((out / "run" / "status.json").read_text())["state"] == "interrupted"
    assert not [path for path in out.rglob("*") if path.name.startswith(".writing")]
    assert start(plan, out).wait(PATIENCE) == 0
    assert content(out) == undisturbed


def test_ray_workers_are_killed(setting, undisturbed, tmp_path):
    """Two of them, one after the other; the run itself goes on."""
    out = tmp_path / "out"
    process = start(plan_of(setting), out, "--engine", "ray", "--workers", "2")
    killed: list[int] = []
    until = time.monotonic() + 4 * PATIENCE
    while len(killed) < 2:
        assert process.poll() is None and time.monotonic() < until
        ready = [int(event["worker"].rpartition(" ")[2]) for event in events(out, "worker_ready")]
        if len(ready) > len(killed) and shards(out) >= 4 * (len(killed) + 1):
            os.kill(ready[len(killed)], signal.SIGKILL)
            killed.append(ready[len(killed)])
        time.sleep(0.002)
    _, errors = process.communicate(timeout=4 * PATIENCE)
    assert process.returncode == 0, errors
    assert len(events(out, "worker_lost")) == 2 and events(out, "shard_again")
    assert verify(out, progress=False).problems == []
    assert content(out) == undisturbed
