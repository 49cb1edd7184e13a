"""Quality against steps, and both kinds of model in one report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import DIFFUSETS_SIZES, states
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import models
from ecgtwin_fast.cli import main
from ecgtwin_fast.diffusets import DiffuSETS
from ecgtwin_fast.evaluation.bootstrap import Estimate
from ecgtwin_fast.evaluation.ecgs import UNKNOWN, Ecgs
from ecgtwin_fast.evaluation.encoders import Statements
from ecgtwin_fast.evaluation.steps import fewest_steps
from ecgtwin_fast.evaluation.steps_plot import steps_plot
from ecgtwin_fast.evaluation.twins import Sampling, choose_cases, make_ecgs
from ecgtwin_fast.generator import Condition
from ecgtwin_fast.pretrained import NETWORKS, ModelConfig, write_model

AUTOENCODER = {"widths": [16, 16, 16, 16], "groups": 4}
EXTRACTOR = {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32, "text_width": TEXT_WIDTH, "float_mask": False}
DENOISER = {"hidden": 32, "depth": 1, "heads": 2, "base_width": 32, "text_width": TEXT_WIDTH}
SIZES = {"encoder": AUTOENCODER, "decoder": AUTOENCODER, "extractor": EXTRACTOR, "denoiser": DENOISER}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), people=18, test_people=14)


@pytest.fixture(scope="module")
def ecgtwin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ecgtwin")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {role: models.create(network, **SIZES[role]).state_dict() for role, network in NETWORKS.items()}
    write_model(folder, ModelConfig(SIZES, "hash", TEXT_WIDTH), weights, "# tiny\n")
    return folder


@pytest.fixture(scope="module")
def diffusets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusets")
    sizes = DIFFUSETS_SIZES | {"denoiser": DIFFUSETS_SIZES["denoiser"] | {"text_width": TEXT_WIDTH}}
    config = ModelConfig(sizes, "hash", TEXT_WIDTH, "diffusets")
    write_model(folder, config, states(config=config), "# tiny\n")
    return folder


def row(sampler: str, steps: int, ratio: float | None) -> dict:
    estimate = None if ratio is None else Estimate(ratio, ratio, ratio)
    return {"sampler": sampler, "steps": steps, "metrics": {"ratio_plain": estimate}}


def test_fewest_steps_are_those_from_which_on_all_are_good():
    rows = [row("ddpm", 1000, 1.0), row("dpmpp", 50, 1.01), row("dpmpp", 25, 1.05), row("dpmpp", 15, 1.06)]
    rows += [row("dpmpp", 10, 0.9), row("ddim", 50, 1.2), row("ddim", 25, 1.0)]
    assert fewest_steps(rows, "plain") == {"ddpm": 1000, "dpmpp": 25}
    assert fewest_steps([row("ddpm", 5, None)], "plain") == {}


def test_diffusets_makes_ecgs_of_nobody_under_the_conditions(store, diffusets):
    model, cases = DiffuSETS.from_pretrained(diffusets, "cpu"), choose_cases(store, 5, seed=1)
    targets = Ecgs.of_store(store, cases.target, "targets")
    targets.age[1] = np.nan
    made, backend = make_ecgs(model, Statements(store), targets, targets, Sampling("dpmpp", 2, 3, 2), "others")
    assert backend and made.name == "others" and (made.person == UNKNOWN).all() and (made.reference == UNKNOWN).all()
    np.testing.assert_array_equal(made.target, targets.target)
    ages = [*targets.age[[0, 2, 3, 4]]]
    for index, age in ((0, ages[0]), (1, float(np.mean(ages)))):
        condition = Condition(targets.reports[index], targets.heart_rate[index], age, "FM"[int(targets.sex[index])])
        expected = model.signals([condition], sampler="dpmpp", steps=2, seed=3, first_index=index).signals[0]
        np.testing.assert_allclose(made.signals[index], expected, atol=5e-4)
    older = model.signals([replace(condition, age=90.0)], sampler="dpmpp", steps=2, seed=3, first_index=1).signals[0]
    assert np.abs(older - expected).max() > 5e-3


def test_command_follows_both_models_over_steps(store, ecgtwin, diffusets, tmp_path, capsys):
    arguments = ["evaluate", "--real", str(store.path), "--device", "cpu", "--workers", "1", "--steps", "3"]
    arguments += ["--model", f"twin={ecgtwin}", f"other={diffusets}", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--curve", "ddpm=4,2", "sde-dpmpp=3"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["metrics"]) == ["twin", "other", "real", "shuffled"]
    assert report["metrics"]["other"]["top1_base"] is None and report["metrics"]["twin"]["top1_base"]
    for name in ("twin", "other"):
        rows = report["steps"][name]
        assert [(each["sampler"], each["steps"]) for each in rows] == [("ddpm", 4), ("ddpm", 2), ("sde-dpmpp", 3)]
        assert rows[0]["metrics"]["ratio_plain"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert rows[1]["metrics"]["ratio_plain"]["value"] > 0 and rows[1]["metrics"]["fid_plain"]["value"] > 0
        assert report["fewest_steps"][name]["plain"]["ddpm"] in (2, 4)
    # The point at the report's own sampler and steps is the report's own column.
    for name, metric in (("twin", "fid_plain"), ("twin", "top1_base"), ("other", "heart_rate_median")):
        assert report["steps"][name][2]["metrics"][metric] == report["metrics"][name][metric], (name, metric)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Quality against steps" in page and "<h3>other</h3>" in page and "within 5 % of the first row" in page


def test_plot_shows_what_there_is():
    metrics = {"heart_rate_median": Estimate(1.0, 0.5, 2.0), "fid_plain": None}
    others = dict.fromkeys(("fid_clip", "top1_base", "top1_plain"))
    rows = [{"sampler": "ddpm", "steps": steps, "metrics": metrics | others} for steps in (100, 10)]
    drawn = steps_plot({"twin": rows}).decode()
    assert "heart-rate error, median" in drawn and "twin, ddpm" in drawn and "FID" not in drawn


@pytest.mark.parametrize(
    ("curve", "message"),
    [("euler=5", "expected SAMPLER=STEPS,STEPS,... with one of"), ("ddpm=5,0", "0 is out of range, expected 1..1000")],
)
def test_command_says_what_a_curve_is(curve, message, store, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--real", str(store.path), "--model", "x", "--out", str(tmp_path / "o"), "--curve", curve])
    assert message in capsys.readouterr().err
