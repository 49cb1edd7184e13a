"""`ecgtwin-fast reproduce`: everything from a store to the report, killed in the middle and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_store import write_store

from ecgtwin_fast.cli import main
from ecgtwin_fast.commands.train import STAGES

EXTRACTOR_STEPS = 60
OPTIONS = ["--preset", "smoke", "--device", "cpu", "--count", "8", "--steps", "2"]
OPTIONS += ["--set", f"extractor.loop.steps={EXTRACTOR_STEPS}", "--set", "extractor.gradient_caching=true"]
OPTIONS += ["--set", "extractor.mini_batch=3", "--set", "clip.mini_batch=4", "--set", "autoencoder.loop.steps=2"]
OPTIONS += ["--set", "denoiser.loop.steps=3", "--set", "denoiser.loop.sample_every=0"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("reproduce") / "store", people=18, test_people=8).path


def reproduce(store: Path, out: Path, *more: str) -> int:
    return main(["reproduce", str(store), str(out), *OPTIONS, *more])


def finals(out: Path) -> dict[str, dict[str, float]]:
    """The last numbers of each stage."""
    return {stage: json.loads((out / stage / "summary.json").read_text())["final"] for stage in STAGES}


def wait_for(seen, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "never came so far"
        time.sleep(0.001)


def test_killed_run_goes_on_to_the_same_end(store, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert reproduce(store, whole) == 0
    command = [sys.executable, "-m", "ecgtwin_fast", "reproduce", str(store), str(broken), *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list(broken.glob("extractor/checkpoint-*")), process)
        os.kill(process.pid, signal.SIGKILL)
    assert (broken / "autoencoder" / "summary.json").exists()
    assert not (broken / "extractor" / "summary.json").exists(), "the kill came too late to show anything"
    capsys.readouterr()
    assert reproduce(store, broken) == 2
    assert "holds an unfinished run; go on with it by --resume" in capsys.readouterr().err
    assert reproduce(store, broken, "--resume") == 0
    assert finals(broken) == finals(whole)
    reports = [json.loads((out / "report" / "report.json").read_text()) for out in (broken, whole)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    page = (whole / "report" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2, "a gallery and training curves"

    written = [path.stat().st_mtime_ns for path in sorted((whole / "report").iterdir())]
    capsys.readouterr()
    assert reproduce(store, whole) == 0
    shown = capsys.readouterr().err
    assert shown.count("trained already, nothing to do") == 4 and "evaluation: done already" in shown
    assert [path.stat().st_mtime_ns for path in sorted((whole / "report").iterdir())] == written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "loop.steps=3"], "--set loop.steps=3: expected STAGE.KEY=VALUE"),
        (["--set", "clip.loop.stepz=3"], "unknown key 'loop.stepz'"),
        (["--count", "0"], "evaluation.count is 0, expected at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_values_are_checked_before_anything_is_trained(options, message, tmp_path, capsys):
    assert main(["reproduce", str(tmp_path / "store"), str(tmp_path / "out"), "--preset", "smoke", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
