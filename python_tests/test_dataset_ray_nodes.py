"""Two Ray nodes, one of which is lost in the middle of a run: the data set is the undisturbed one."""

from __future__ import annotations

import json
import sys
import time

import pytest
import ray_nodes
from dataset_tools import Setting, content, make

from ecgtwin_fast.dataset.verify import verify

TWINS, PER_SHARD = 100, 10
SHARDS = 3 * 2 * TWINS // PER_SHARD
PATIENCE = 240

if reason := ray_nodes.why_not():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("nodes"))


@pytest.fixture(scope="module")
def undisturbed(setting, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    make(setting.plan(twins=TWINS, per_shard=PER_SHARD), out)
    return content(out)


def events(out, name) -> list[dict]:
    log = out / "run" / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def made_by(out, node) -> list[int]:
    return [event["shard"] for event in events(out, "made") if event["worker"].startswith(f"{node.address},")]


@pytest.mark.parametrize("loss", [ray_nodes.Node.kill, ray_nodes.Node.unplug])
def test_a_node_is_lost(setting, undisturbed, tmp_path, loss):
    """By SIGKILL of all its processes, or by its cable."""
    plan, out = setting.write_plan(twins=TWINS, per_shard=PER_SHARD), tmp_path / "out"
    command = [sys.executable, "-m", "ecgtwin_fast", "dataset", str(plan), str(out)]
    with ray_nodes.two_nodes(tmp_path) as (head, other):
        driver = head.run([*command, "--engine", "ray", "--address", ray_nodes.ADDRESS], tmp_path / "driver.log")
        end = time.monotonic() + PATIENCE
        while len(made_by(out, other)) < 2:
            assert driver.poll() is None and time.monotonic() < end, (tmp_path / "driver.log").read_text()
            time.sleep(0.01)
        loss(other)
        finished = len(events(out, "made"))
        assert driver.wait(PATIENCE) == 0, (tmp_path / "driver.log").read_text()
        assert finished < SHARDS
    (lost,) = events(out, "worker_lost")
    assert lost["worker"].startswith(f"{other.address},")
    again = [event["shard"] for event in events(out, "shard_again")]
    assert again and set(again) <= set(made_by(out, head))
    assert sorted(made_by(out, head) + made_by(out, other)) == list(range(SHARDS))
    assert verify(out, progress=False).problems == []
    assert content(out) == undisturbed
