"""Two processes that torchrun starts train like one: the same loss curve, the same files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_store import write_store

from ecgtwin_fast.cli import main
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.log import read_history

OPTIONS = ["--preset", "smoke", "--device", "cpu", "--set", "loop.bfloat16=false"]
STAGES = ("autoencoder", "extractor", "denoiser")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory) -> Path:
    """A run folder of one process."""
    out = tmp_path_factory.mktemp("alone")
    for stage in STAGES:
        assert main(["train", stage, str(store.path), str(out), *OPTIONS]) == 0
    return out


def torchrun(stage: str, store: Store, out: Path) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "ecgtwin_fast", "train", stage, str(store.path), str(out), *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_two_processes_give_the_loss_curve_of_one(alone, store, tmp_path, stage):
    shutil.copytree(alone, tmp_path / "two", ignore=shutil.ignore_patterns(stage, "model", "latents"))
    finished = torchrun(stage, store, tmp_path / "two")
    assert finished.returncode == 0, finished.stderr
    one, two = (read_history(folder / stage) for folder in (alone, tmp_path / "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for name in one[0]:
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=1e-4, err_msg=name)
    assert (tmp_path / "two" / "model" / "config.json").is_file() == (stage == "denoiser")


def test_one_process_keeps_its_gradients():
    parameter = torch.nn.Parameter(torch.zeros(2))
    assert Processes().average_gradients([parameter], stop=True) is True
    assert parameter.grad is None
    assert Processes().average({"loss": torch.tensor(0.5), "rate": 2}) == {"loss": 0.5, "rate": 2.0}
