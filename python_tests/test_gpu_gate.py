"""The gate that runs on a GPU: it goes on after a failing part, keeps to its time, and says so by its exit status."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

import gpu_gate  # noqa: E402
from gpu_gate import Part, parts, run_all  # noqa: E402


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_goes_on_after_failing_endless_and_missing_parts(tmp_path, capsys):
    chosen = [
        Part("broken", python("print('what broke'); raise SystemExit(3)"), 30),
        Part("endless", python("import time; print('begun', flush=True); time.sleep(60)"), 2),
        Part("missing", [str(tmp_path / "no-such-program")], 30),
        Part("fine", python("import os; print('value', os.environ['VALUE'])"), None, {"VALUE": "7"}),
    ]
    began = time.monotonic()
    outcomes = {outcome.part: outcome.result for outcome in run_all(chosen, tmp_path, 1.0)}
    assert time.monotonic() - began < 30
    assert outcomes["broken"] == "status 3" and outcomes["endless"] == "not done within 2 s"
    assert outcomes["missing"].startswith("cannot run:") and outcomes["fine"] == "passed"
    assert (tmp_path / "fine.log").read_text() == "value 7\n"
    shown = capsys.readouterr().out
    assert "what broke" in shown and "begun" in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, str(FOLDER / "gpu_gate.py"), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and "torch sees no CUDA device" in run.stderr and not (tmp_path / "out").exists()


def test_every_part_names_files_that_exist(tmp_path):
    root = FOLDER.parent
    chosen = parts(tmp_path, [1], 2)
    assert [part.name for part in chosen] == ["build", "tests", "memcheck", "racecheck", "speed"]
    named = [word for part in chosen for word in part.command if word.startswith(("benchmarks/", "python_tests/"))]
    assert len(named) == 9 and all((root / word).is_file() for word in named)
    assert sum(part.seconds or 0 for part in chosen) < 60 * 9
    assert gpu_gate.ROOT == root
