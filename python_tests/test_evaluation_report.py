"""The evaluation of a model on a store: cases, twins, the table and the page."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import NOTICE, models
from ecgtwin_fast.errors import ECGTwinError, StoreError, TextEncoderError
from ecgtwin_fast.evaluation.report import EvaluationConfig, evaluate
from ecgtwin_fast.evaluation.scores import COLUMNS, METRICS, Evidence, score
from ecgtwin_fast.evaluation.twins import choose_cases, make_twins
from ecgtwin_fast.generate import ECGTwin
from ecgtwin_fast.pretrained import NETWORKS, ModelConfig, write_model

AUTOENCODER = {"widths": [16, 16, 16, 16], "groups": 4}
EXTRACTOR = {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32, "text_width": TEXT_WIDTH, "float_mask": False}
DENOISER = {"hidden": 32, "depth": 1, "heads": 2, "base_width": 32, "text_width": TEXT_WIDTH}
SIZES = {"encoder": AUTOENCODER, "decoder": AUTOENCODER, "extractor": EXTRACTOR, "denoiser": DENOISER}
CLIP = {"stem": 16, "widths": (16,), "blocks": (1,), "text_hidden": 16, "width": 8, "text_width": TEXT_WIDTH}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), people=11, test_people=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        states = {role: models.create(network, **SIZES[role]).state_dict() for role, network in NETWORKS.items()}
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, ModelConfig(SIZES, "hash", TEXT_WIDTH), states, "# tiny\n")
    return folder


def test_cases_are_pairs_of_different_people_then_single_records():
    """People 0..3 have two records, 4 and 5 one, 6 is not in the test fold, the two of 3 are byte-identical."""
    person = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6])
    count = np.arange(len(person))
    signal_hash = np.where(person == 3, 1000, count)
    store = SimpleNamespace(
        person=person, time=count.astype("datetime64[s]"), heart_rate=60.0 + count, report_key=count,
        signal_hash=signal_hash, path="store", target=np.ones(len(person), bool),
        rows=lambda test: np.flatnonzero((person != 6) == test),
    )  # fmt: skip
    cases = choose_cases(store, 100, seed=0)
    assert cases.paired.tolist() == [True] * 3 + [False] * 3
    assert sorted(zip(*(rows[:3].tolist() for rows in cases), strict=True)) == [(0, 1), (2, 3), (4, 5)]
    assert sorted(person[cases.reference[3:]]) == [3, 4, 5]
    assert len(choose_cases(store, 2, seed=0).reference) == 2 and choose_cases(store, 2, seed=0).paired.all()


def test_twins_do_not_depend_on_the_batch(store, model):
    twin_model, cases = ECGTwin.from_pretrained(model, "cpu"), choose_cases(store, 5, seed=1)
    whole, parts = (make_twins(twin_model, store, cases, "dpmpp", 2, 3, batch) for batch in (5, 2))
    np.testing.assert_allclose(parts.signals, whole.signals, atol=1e-4)
    np.testing.assert_allclose(parts.twin_bases, whole.twin_bases, atol=1e-4)
    expected = twin_model.base_vector(store.record(cases.reference[4]))
    np.testing.assert_allclose(whole.reference_bases[4], expected, atol=1e-4)
    assert not np.allclose(whole.signals[0], whole.signals[1], atol=1e-2)


def test_store_with_other_embeddings_is_refused(store, model):
    twin_model = ECGTwin.from_pretrained(model, "cpu")
    twin_model.config = dataclasses.replace(twin_model.config, text_encoder="nomic")
    with pytest.raises(TextEncoderError, match=r"embedded by \('hash', 32\), the model .* takes \('nomic', 32\)"):
        make_twins(twin_model, store, choose_cases(store, 2, 0), "dpmpp", 1, 0)


def evidence(count: int, paired: int) -> Evidence:
    """Twins that are their targets, and references that are nearly so."""
    rng = np.random.default_rng(8)
    features, bases = rng.normal(size=(count, 4)), rng.normal(size=(count, 16))
    rates = rng.uniform(50, 120, count)
    signals = np.zeros((count, 16, 12), np.float32)
    return Evidence(
        twin_features=features, real_features=features, text_features=features, requested_rates=rates,
        twin_rates=rates + 2, real_rates=rates + 1, twin_bases=bases, reference_bases=bases + 0.01, target_bases=bases,
        person=np.arange(count), paired=np.arange(count) < paired, twin_signals=signals + 0.5, real_signals=signals,
    )  # fmt: skip


def test_scores_of_perfect_twins():
    values, notes = score(evidence(60, 60), seed=0)
    assert set(values) == set(COLUMNS) and all(set(column) == set(METRICS) for column in values.values())
    generated, real, shuffled = values.values()
    assert not notes
    assert generated["fid"] == real["fid"] > 0.05 and generated["relative_fid"] == real["relative_fid"] == 1
    assert all(generated[name] == real[name] > 0.5 for name in ("precision", "recall", "f1", "density", "coverage"))
    assert generated["heart_rate_mean"] == pytest.approx(2) and real["heart_rate_mean"] == pytest.approx(1)
    assert shuffled["heart_rate_mean"] > 10
    assert generated["clip_score"] == real["clip_score"] == pytest.approx(1)
    assert abs(shuffled["clip_score"]) < 0.3
    assert generated["top1"] == real["top1"] == 1 and generated["equal_error_rate"] == 0
    assert shuffled["top1"] == 0 and shuffled["equal_error_rate"] > 0.3
    assert generated["einthoven"] == pytest.approx(0.5) and real["einthoven"] == 0


def test_scores_say_where_rates_were_measured_by_xqrs_itself():
    one = evidence(60, 60)
    _, notes = score(dataclasses.replace(one, real_rates=one.requested_rates), seed=0)
    assert notes == ["the store's heart rates are XQRS's own, so that real records have no heart-rate error"]


def test_scores_say_what_too_few_records_leave_out():
    values, notes = score(evidence(5, 1), seed=0)
    assert values["generated"]["fid"] is None and values["generated"]["top1"] is None
    assert values["generated"]["heart_rate_median"] == pytest.approx(2)
    assert any("5 test records are too few" in note for note in notes)
    assert any("4 of 5 test patients have no pair of records" in note for note in notes)
    assert any("identity needs two such patients" in note for note in notes)


def test_report_is_written_whole(store, model, tmp_path):
    clip = models.create("clip", **CLIP)
    config = EvaluationConfig(count=9, sampler="dpmpp", steps=2, batch=4)
    report = evaluate(model, clip, store, tmp_path, config, "cpu")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    written = json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    assert written == report
    assert report["cases"] == {"count": 9, "paired": 9} and report["training"] == {}
    assert report["metrics"]["generated"]["fid"] > 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert NOTICE in page and page.count("data:image/png;base64,") == 1
    assert "http" not in page and "<script" not in page
    assert all(metric.name in page for metric in METRICS.values())
    again = evaluate(model, clip, store, tmp_path / "again", config, "cpu")
    assert again["metrics"] == report["metrics"]


def test_evaluation_of_one_patient_and_of_none(model, tmp_path):
    clip = models.create("clip", **CLIP)
    config = EvaluationConfig(sampler="dpmpp", steps=1)
    store = write_store(tmp_path / "one", people=2, test_people=1)
    generated, _, shuffled = evaluate(model, clip, store, tmp_path, config, "cpu")["metrics"].values()
    assert generated["heart_rate_unmeasured"] in (0, 1) and set(shuffled.values()) == {None}
    with pytest.raises(StoreError, match="none: has no record in the test fold"):
        evaluate(model, clip, write_store(tmp_path / "none", people=1, test_people=0), tmp_path, config)
    with pytest.raises(ECGTwinError, match="evaluation.steps is 0"):
        EvaluationConfig(steps=0)
