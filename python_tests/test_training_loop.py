"""The training loop: exact resume, schedules, averaged weights, signals, and files that are whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from ecgtwin_fast.errors import CheckpointError, ECGTwinError
from ecgtwin_fast.training.checkpoint import newest_checkpoint
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.log import TrainingError, read_history
from ecgtwin_fast.training.loop import Draw, Interrupted, LoopConfig, fit

LOOP = LoopConfig(
    steps=12, batch=4, learning_rate=1e-2, warmup=3, ema=0.9, clip=1.0, bfloat16=False, checkpoint_seconds=0.0
)


class Crash(Exception):
    pass


class Line:
    """Learns the sum of three numbers, through dropout; `at(step)` happens before each step."""

    name = "line"

    def __init__(self, batch: int, at=lambda step: None):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.batch, self.at = batch, at
        self.fetched = []

    def fetch(self, draw: Draw) -> torch.Tensor:
        self.fetched.append(draw.step)
        return torch.from_numpy(draw.rng.normal(size=(self.batch, 3)).astype(np.float32))

    def step(self, draw: Draw) -> dict:
        self.at(draw.step)
        x = draw.on_device(draw.share(draw.batch))
        noise = 0.1 * torch.randn(self.batch, 1, generator=draw.generator)
        loss = (self.network(x) - x.sum(1, keepdim=True) - noise).square().mean()
        loss.backward()
        return {"loss": loss.detach()}


def run(folder: Path, config: LoopConfig = LOOP, at=lambda step: None) -> nn.Module:
    return fit(Line(config.batch, at), config, folder)


def crash_at(number: int):
    def at(step):
        if step == number:
            raise Crash

    return at


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "halves", at=crash_at(7))
    assert newest_checkpoint(tmp_path / "halves").name == "checkpoint-00000007"
    resumed = run(tmp_path / "halves")
    assert same(whole, resumed)
    histories = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "halves")]
    assert histories[0] == histories[1]
    assert [row["step"] for row in read_history(tmp_path / "whole")] == list(range(1, 13))


def test_rows_after_the_checkpoint_and_leftovers_are_dropped(tmp_path):
    rare = dataclasses.replace(LOOP, checkpoint_seconds=1000.0)
    whole = run(tmp_path / "whole", rare)
    with pytest.raises(Crash):
        run(tmp_path / "halves", at=crash_at(5))
    with pytest.raises(Crash):  # four more rows, no checkpoint
        run(tmp_path / "halves", rare, crash_at(9))
    assert len(read_history(tmp_path / "halves")) == 9
    with open(tmp_path / "halves" / "history.csv", "a") as file:
        file.write("10,0.1")
    (tmp_path / "halves" / ".checkpoint-00000009.part").mkdir()
    assert same(whole, run(tmp_path / "halves", rare))
    assert (tmp_path / "halves/history.csv").read_bytes() == (tmp_path / "whole/history.csv").read_bytes()
    assert [path.name for path in (tmp_path / "halves").glob("*checkpoint*")] == ["checkpoint-00000012"]


def test_finished_run_is_loaded_and_nothing_is_done(tmp_path):
    first = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(tmp_path, at=crash_at(0))
    assert same(first, again) and not again.training
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["final"] == read_history(tmp_path)[-1] and summary["steps"] == 12


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_how_to_go_on(tmp_path, number):
    whole = run(tmp_path / "whole")
    rare = dataclasses.replace(LOOP, checkpoint_seconds=1000.0)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"line stopped after 5 of 12 steps; saved in .*--resume"):
        run(tmp_path / "halves", rare, lambda step: step == 4 and os.kill(os.getpid(), number))
    assert signal.getsignal(number) is handler
    assert same(whole, run(tmp_path / "halves", rare))


def test_training_lowers_the_loss(tmp_path):
    config = dataclasses.replace(LOOP, steps=300, checkpoint_seconds=100.0, log_every=50)
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(1))

    def error(network):
        return float((network(x) - x.sum(1, keepdim=True)).square().mean())

    assert error(run(tmp_path / "long", config)) < 0.1 * error(run(tmp_path / "short"))
    assert [row["step"] for row in read_history(tmp_path / "long")] == list(range(50, 301, 50))


def test_averaged_weights_are_returned_and_differ_from_the_last(tmp_path):
    averaged = run(tmp_path / "average")
    last = run(tmp_path / "last", dataclasses.replace(LOOP, ema=0.0))
    histories = [read_history(tmp_path / name) for name in ("average", "last")]
    assert histories[0] == histories[1]
    assert not same(averaged, last)


def test_run_of_another_configuration_is_refused(tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, at=crash_at(7))
    run(tmp_path / "other")
    for folder in (tmp_path, tmp_path / "other"):  # unfinished and finished
        with pytest.raises(CheckpointError, match=r"written with loop\.steps = 12, this run has 13"):
            run(folder, dataclasses.replace(LOOP, steps=13))


@pytest.mark.parametrize("file", ["network.safetensors", "average.safetensors", "optimiser.pt", "state.json"])
def test_damaged_checkpoint_is_named(tmp_path, file):
    with pytest.raises(Crash):
        run(tmp_path, at=crash_at(7))
    path = newest_checkpoint(tmp_path) / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=file):
        run(tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    stage = Line(4)
    with torch.no_grad():
        stage.network[0].weight.fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"history\.csv: loss is nan at step 1; lower loop.learning_rate"):
        fit(stage, LOOP, tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path)
    assert "no TensorBoard (pip install 'ecgtwin-fast[train]'); numbers go to" in capsys.readouterr().err
    assert len(read_history(tmp_path)) == 12 and not list(tmp_path.glob("events*"))


def test_batches_are_fetched_ahead_once_each(tmp_path):
    seen = []
    stage = Line(4, lambda step: seen.append(step))
    fit(stage, LOOP, tmp_path)
    assert stage.fetched == seen == list(range(12))


def test_draws_are_keyed_by_seed_and_step():
    def numbers(seed, step):
        draw = Draw.of(seed, step, Processes())
        return draw.rng.random(), torch.rand(1, generator=draw.generator).item()

    assert numbers(0, 5) == numbers(0, 5)
    assert len({numbers(seed, step) for seed in range(3) for step in range(3)}) == 9


def test_shares_are_equal_parts_in_order():
    rows = np.arange(6)
    parts = [Draw.of(0, 0, Processes(rank, 3)).share(rows).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ECGTwinError, match="batch 4 cannot be split equally over 3 processes"):
        fit(Line(4), LOOP, Path("nowhere"), processes=Processes(0, 3))


def test_one_cycle_is_that_of_torch():
    config = LoopConfig(steps=50, learning_rate=2e-4, final_learning_rate=8e-10, schedule="one-cycle")
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = OneCycleLR(optimiser, max_lr=2e-4, total_steps=50)
    for step in range(50):
        group = optimiser.param_groups[0]
        assert config.rate(step) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-6)
        optimiser.step()
        if step < 49:
            schedule.step()


def test_cosine_warms_up_and_decays_to_the_final_rate():
    config = LoopConfig(steps=1000, learning_rate=1e-3, final_learning_rate=1e-5, warmup=10)
    assert [config.rate(step)[0] for step in (0, 4, 9, 10)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])
    assert config.rate(505)[0] == pytest.approx((1e-3 + 1e-5) / 2)
    assert config.rate(1000)[0] == pytest.approx(1e-5)


def test_epochs_become_steps():
    config = LoopConfig(epochs=2.5, batch=32)
    assert config.with_steps(100).steps == 8
    assert dataclasses.replace(config, steps=3).with_steps(100).steps == 3
    with pytest.raises(ECGTwinError, match=r"loop\.steps and loop\.epochs are both missing"):
        LoopConfig()
