"""ECGTwin.edit and attention, and what `ecgtwin-fast edit` leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import wfdb
from tiny_model import PATIENT, patient, tree, write_tiny_model

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.cli import main
from ecgtwin_fast.errors import ConditionError

REPORT = "sinus rhythm|left bundle branch block"
SWAPPED = "sinus rhythm|right bundle branch block"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return ECGTwin.from_pretrained(folder, device="cpu")


def signals(records):
    return np.stack([record.signal for record in records])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_sources_are_the_plain_twins(model, backend):
    options = {"count": 3, "steps": 4, "seed": 7, "backend": backend}
    editing = model.edit(patient(), REPORT, swap=SWAPPED, threshold=1000, **options)
    np.testing.assert_allclose(
        signals(editing.sources), signals(model.generate(patient(), REPORT, **options)), rtol=0, atol=1e-4
    )
    (edits,) = editing.edits
    assert [record.report for record in (editing.sources[0], edits[0])] == [REPORT, SWAPPED]
    assert np.abs(signals(edits) - signals(editing.sources)).max() > 1e-3
    assert edits[2].source == f"ECGTwin {model.name} seed 7 index 2, edited, weight 1"


def test_without_a_threshold_an_edit_is_the_twin_of_its_report(model):
    editing = model.edit(patient(), REPORT, swap=SWAPPED, threshold=0, count=2, steps=4)
    expected = model.generate(patient(), SWAPPED, count=2, steps=4)
    np.testing.assert_allclose(signals(editing.edits[0]), signals(expected), rtol=0, atol=1e-4)


def test_a_sweep_is_its_weights_one_by_one(model):
    options = {"add": "old infarction", "threshold": 900, "count": 3, "steps": 4}
    sweep = model.edit(patient(), REPORT, weight=[0.0, 0.5, 3.0], batch_size=5, **options)
    assert sweep.weights == (0.0, 0.5, 3.0) and len(sweep.edits) == 3
    for weight, edits in zip(sweep.weights, sweep.edits, strict=True):
        (alone,) = model.edit(patient(), REPORT, weight=weight, **options).edits
        assert edits[0].report == f"{REPORT}|old infarction"
        np.testing.assert_allclose(signals(edits), signals(alone), rtol=0, atol=1e-4)
    assert np.abs(signals(sweep.edits[0]) - signals(sweep.edits[2])).max() > 1e-3


def test_a_base_vector_does_for_the_record(model):
    reference = patient()
    known = {name: getattr(reference, name) for name in ("heart_rate", "age", "sex")}
    options = {"swap": SWAPPED, "steps": 3}
    by_vector = model.edit(model.base_vector(reference), REPORT, **known, **options)
    by_record = model.edit(reference, REPORT, **options)
    assert np.array_equal(signals(by_vector.edits[0]), signals(by_record.edits[0]))


def test_progress_counts_to_the_end(model):
    seen = []
    model.edit(patient(), REPORT, add="x", count=3, batch_size=2, steps=4, progress=lambda *at: seen.append(at))
    assert seen[-1] == (12, 12)


def test_attention_is_a_share_of_each_statement(model):
    twin = model.generate(patient(), REPORT, count=1, steps=2)[0]
    found = model.attention(twin, model.base_vector(patient()))
    assert found.statements == REPORT.split("|") and found.weights.shape == (2, 128)
    np.testing.assert_allclose(found.weights.sum(0), 1, atol=1e-5)
    assert found.weights.std() > 0
    assert np.array_equal(found.weights, model.attention(twin, model.base_vector(patient())).weights)


def test_warmup_changes_no_result(folder, model):
    warmed = ECGTwin.from_pretrained(folder, device="cpu")
    warmed.warmup()
    for which in (warmed, model):
        which.name = "m"
    once, again = (which.generate(patient(), REPORT, count=1, steps=2) for which in (warmed, model))
    assert np.array_equal(signals(once), signals(again))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either swap"),
        ({"swap": "a", "add": "b"}, "give either swap"),
        ({"add": "  "}, "the report is empty"),
        ({"add": "a", "weight": float("nan")}, "weight is nan: expected a finite number"),
        ({"add": "a", "weight": []}, "weight is \\[\\]"),
        ({"add": "a|b|c"}, "takes 4 at most|the model takes at most 4"),
        ({"swap": "a", "age": 400}, "age is 400: expected 0..120 years"),
        ({"swap": "a", "threshold": 1001}, "threshold must be 0..1000, but it is 1001"),
    ],
)
def test_edits_that_cannot_be(model, options, message):
    with pytest.raises(ConditionError, match=message):
        model.edit(patient(), REPORT, **options, steps=2)


def test_command_leaves_records_pictures_and_summary(folder, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["edit", "--reference", str(PATIENT), "--report", REPORT, "--add", "old infarction", "--out", str(out)]
    assert main([*given, "--weight", "0.5", "2", "--count", "2", "--steps", "2", "--model", str(folder)]) == 0
    summary = json.loads((out / "edits.json").read_text())
    assert (summary["weights"], summary["edited_report"]) == ([0.5, 2], f"{REPORT}|old infarction")
    names = ["source_000", "edit_000_1", "edit_000_2", "source_001", "edit_001_1", "edit_001_2"]
    files = [f"{name}.{suffix}" for name in names for suffix in ("hea", "dat")]
    assert tree(out) == sorted([*files, "attention.png", "edits.json", "edits.png"])
    assert [file for entry in summary["records"] for file in entry["files"]] == files
    record = wfdb.rdrecord(str(out / "edit_001_2"))
    assert record.p_signal.shape == (1024, 12) and np.isfinite(record.p_signal).all()
    assert any("not for diagnosis" in comment for comment in record.comments)
    assert "weight 0.5, 2" in capsys.readouterr().out


def test_command_refuses_before_any_work(folder, tmp_path, capsys):
    given = ["edit", "--reference", str(PATIENT), "--report", REPORT, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*given, "--model", str(folder)])
    assert main([*given, "--swap", "|", "--model", str(folder)]) == 2
    assert "error: the report is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert torch.is_grad_enabled()
