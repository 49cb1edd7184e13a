"""The CPU benchmark: runs as a program, measures all that it says, and gives wrong answers no time."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgtwin_fast import extension
from ecgtwin_fast.engine.cpu_support import precision_reasons

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))

from autoencoder import correlations  # noqa: E402
from denoiser import COLUMNS, add_throughput  # noqa: E402
from machine import FACTS, Peak  # noqa: E402
from tasks import Contestant, Decoding, Denoising, Standard, WrongAnswer, denoiser_flop, verify  # noqa: E402

from ecgtwin_fast import models  # noqa: E402

needs_kernels = pytest.mark.skipif(bool(precision_reasons(torch.float32)), reason="this CPU has no compiled engine")


def benchmark(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, FOLDER / "denoiser.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@needs_kernels
def test_writes_every_contestant_with_the_facts(tmp_path):
    file = tmp_path / "out.csv"
    quick = ("--weights", "bundled", "--batch", 2, "--steps", 2, "--rounds", 1, "--tokens", 3, "--no-compile")
    run = benchmark(*quick, "--csv", file)
    assert run.returncode == 0, run.stderr
    assert max(map(len, run.stdout.splitlines()[1:])) <= 120
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        rows = list(reader)
        assert tuple(reader.fieldnames) == COLUMNS + FACTS
    names = ["eager float32", "eager bfloat16", "ours float32"]
    names += [] if precision_reasons(torch.bfloat16) else ["ours bfloat16"]
    assert [(row["what"], row["contestant"]) for row in rows] == [
        (what, name) for what in ("denoiser", "decoder") for name in names
    ]
    for row in rows:
        assert (row["weights"], row["batch"], row["rounds"]) == ("bundled", "2", "1")
        assert 0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert float(row["gflop_per_s"]) > 0 and float(row["ratio_best_peer"]) > 0
        assert row["threads"] == str(torch.get_num_threads()) and row["cpu_level"] == extension.MODULE.cpu_level()
        if row["peak"] == "bfloat16":
            share = float(row["gflop_per_s"]) / float(row["peak_gflop_per_s"])
            assert float(row["percent_of_peak"]) == pytest.approx(100 * share, rel=1e-3)
        else:
            assert row["percent_of_peak"] == "" and "peak is left out" in run.stdout
    assert [float(row["ratio_eager"]) for row in rows if row["contestant"] == "eager float32"] == [1, 1]
    for step, decoded in zip(rows[: len(names)], rows[len(names) :], strict=True):
        assert (step["steps"], step["tokens"], decoded["steps"]) == ("2", "3", "")
        seconds = (25 * float(step["p50_ms"]) + float(decoded["p50_ms"])) / 1e3
        assert float(step["records_per_s_25"]) == pytest.approx(2 / seconds, rel=1e-3)


def test_refuses_a_file_with_other_columns(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("operator,mode\n")
    run = benchmark("--csv", file)
    assert run.returncode == 2 and "has other columns" in run.stderr
    assert file.read_text() == "operator,mode\n"


def small_denoiser() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden": 64, "depth": 2, "heads": 4, "text_width": 16, "base_width": 16}
    return models.create("dit", **sizes).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def standard() -> Standard:
    return Standard.of(Denoising(small_denoiser(), batch=2, steps=2, tokens=3))


def test_a_wrong_answer_is_refused(standard):
    noise = torch.randn(standard.single.shape, generator=torch.Generator().manual_seed(0))
    noise *= standard.single.norm() / noise.norm()
    autocast = float((standard.half.double() - standard.exact).norm() / standard.exact.norm())
    exact = standard.exact.float()
    verify("good", torch.float32, standard.single + 5e-6 * noise, standard)
    verify("good", torch.bfloat16, exact + 1.5 * autocast * noise, standard)
    wrong = (
        (torch.float32, standard.single + 2e-5 * noise),
        (torch.float32, standard.single.flip(1)),
        (torch.float32, standard.single * torch.nan),
        (torch.bfloat16, exact + 2.5 * autocast * noise),
        (torch.bfloat16, exact * torch.nan),
    )
    for dtype, answer in wrong:
        with pytest.raises(WrongAnswer, match="bad: its relative error is .*, at most .* is allowed"):
            verify("bad", dtype, answer, standard)


def test_the_standard_is_the_predicted_noise_at_each_timestep(standard):
    network, timesteps = small_denoiser(), (960, 500, 40)
    task = Denoising(network, batch=2, steps=2, tokens=3)
    x = task.answer(lambda x, *_: x, "reference", torch.float32)
    assert all(torch.equal(x[0], other) for other in x)
    for found, timestep in zip(standard.single, timesteps, strict=True):
        expected = network(x[0], torch.full((2,), timestep), *task.conditions.values())
        torch.testing.assert_close(found, expected)
    assert float((standard.exact - standard.single).norm() / standard.exact.norm()) < 1e-5


def test_counts_the_published_products():
    with torch.device("meta"):
        denoiser, decoder = models.create("dit"), models.create("dec")
    assert denoiser_flop(denoiser) == pytest.approx(1.76e9, rel=0.002)
    assert Decoding(decoder, 1, 4, 128).flop == pytest.approx(8.7e9, rel=0.01)


def test_records_a_second_include_decoding():
    denoiser, decoder = {"batch": 8, "p50_ms": 2.0}, {"p50_ms": 30.0}
    add_throughput(denoiser, decoder)
    assert denoiser["records_per_s_25"] == pytest.approx(8 / 0.080)
    assert denoiser["records_per_s_1000"] == pytest.approx(8 / 2.030)
    assert decoder["records_per_s"] == pytest.approx(8 / 0.030)


def test_the_peak_says_why_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    peak = Peak(tmp_path, 1)
    assert peak.kind is None and peak.measure() is None and "no-such-compiler" in peak.reason


def test_names_of_contestants():
    assert Contestant("ours", torch.bfloat16).name == "ours bfloat16"
    assert Contestant("compile", torch.float32).backend == "reference"


def test_correlations_are_of_a_lead_over_time():
    time = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    waves = np.stack([np.sin(time), np.sin(time), np.sin(time), np.ones_like(time)], axis=1)[None]
    others = np.stack([3 * np.sin(time) + 1, -np.sin(time), np.sin(time + np.pi / 3), np.sin(time)], axis=1)[None]
    found = correlations(waves.astype(np.float32), others.astype(np.float32))
    assert found[0, :3] == pytest.approx([1, -1, 0.5], abs=1e-6)
    assert np.isnan(found[0, 3])
