"""The evaluation of generators on a store: cases, twins, the table, the page and the command."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_store import TEXT_WIDTH, write_store

from ecgtwin_fast import NOTICE, models
from ecgtwin_fast.cli import main
from ecgtwin_fast.data.record import write_wfdb
from ecgtwin_fast.errors import ECGTwinError, StoreError, TextEncoderError
from ecgtwin_fast.evaluation import beats, text_scores
from ecgtwin_fast.evaluation.auroc import auroc
from ecgtwin_fast.evaluation.beats import FEATURES, INTERVALS
from ecgtwin_fast.evaluation.classifier import Classifier
from ecgtwin_fast.evaluation.ecgs import Ecgs
from ecgtwin_fast.evaluation.encoders import BaseEncoder, Statements
from ecgtwin_fast.evaluation.evidence import Evidence
from ecgtwin_fast.evaluation.measured import Measured, Tools
from ecgtwin_fast.evaluation.metrics import METRICS
from ecgtwin_fast.evaluation.personal import Personal, adapted_scores
from ecgtwin_fast.evaluation.report import EvaluationConfig, evaluate
from ecgtwin_fast.evaluation.scores import score
from ecgtwin_fast.evaluation.statements import label_table
from ecgtwin_fast.evaluation.twins import Sampling, choose_cases, make_ecgs
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
    references, targets = (Ecgs.of_store(store, rows, "records") for rows in cases)
    whole, parts = (
        make_ecgs(twin_model, Statements(store), references, targets, Sampling("dpmpp", 2, 3, batch), "twins")[0]
        for batch in (5, 2)
    )
    np.testing.assert_allclose(parts.signals, whole.signals, atol=1e-4)
    assert not np.allclose(whole.signals[0], whole.signals[1], atol=1e-2)
    assert whole.name == "twins" and whole.person.tolist() == store.person[cases.reference].tolist()
    assert whole.reference.tolist() == cases.reference.tolist() and whole.target.tolist() == cases.target.tolist()
    assert whole.reports.tolist() == targets.reports.tolist()


def test_base_vectors_are_those_of_the_model(store, model):
    twin_model = ECGTwin.from_pretrained(model, "cpu")
    rows = np.array([3, 8])
    found = BaseEncoder(twin_model, Statements(store)).bases(Ecgs.of_store(store, rows, "records"))
    for row, base in zip(rows, found, strict=True):
        np.testing.assert_allclose(base, twin_model.base_vector(store.record(row)), atol=1e-4)


def test_statements_that_the_store_does_not_know_are_embedded_too(store):
    text, mask = Statements(store).embed(["sinus rhythm|a statement of its own", store.report(0)])
    assert mask[0].tolist()[:2] == [1, 1] and np.linalg.norm(text[0, :2], axis=-1) == pytest.approx([1, 1], abs=1e-5)
    np.testing.assert_array_equal(text[1][mask[1] > 0], store.condition(0)[0][0])


def test_store_with_other_embeddings_is_refused(store, model):
    twin_model = ECGTwin.from_pretrained(model, "cpu")
    twin_model.config = dataclasses.replace(twin_model.config, text_encoder="nomic")
    with pytest.raises(TextEncoderError, match=r"embedded by \('hash', 32\), the model .* takes \('nomic', 32\)"):
        records = Ecgs.of_store(store, np.arange(2), "records")
        make_ecgs(twin_model, Statements(store), records, records, Sampling("dpmpp", 1))


def ecgs_of(name: str, person: np.ndarray, rates: np.ndarray, signals: np.ndarray, reports: np.ndarray) -> Ecgs:
    unknown = np.full(len(person), -1)
    age = np.full(len(person), np.nan)
    return Ecgs(name, signals, reports, rates, age, age, person, unknown, person)


def measured(ecgs: Ecgs, rates: np.ndarray, plain: np.ndarray, vectors: np.ndarray | None) -> Measured:
    found = Measured(ecgs, Tools(), rates, np.repeat(plain[:, :1], len(INTERVALS), axis=1), plain)
    found.clip = found.text = found.base = vectors
    return found


def perfect(count: int, vectors: bool = True) -> Evidence:
    """Twins that are their targets but 1 bpm off, another record of each person, nearly the same; training records."""
    rng = np.random.default_rng(8)
    person, rates = np.arange(count), rng.uniform(50, 120, count)
    signals = np.zeros((count, 1024, 12), np.float32)
    plain, features = rng.normal(size=(count, len(FEATURES))), rng.normal(size=(count, 8)) if vectors else None
    reports = np.array(["sinus rhythm", "atrial fibrillation"] * count, dtype=object)[:count]
    real = ecgs_of("real", person, rates, signals, reports)
    twins = dataclasses.replace(real, name="twins", signals=signals + np.float32(0.5))
    trained = rng.normal(size=(2 * count, len(FEATURES)))
    trained[1::2] = trained[::2] + 0.01 * rng.normal(size=(count, len(FEATURES)))
    twice = (np.repeat(values, 2, axis=0) for values in (person, rates, signals, reports))
    pairs = ecgs_of("training", *twice)
    gallery = measured(real, rates, plain + 0.01 * rng.normal(size=plain.shape), features)
    return Evidence(
        real=measured(real, rates + 1, plain, features), generated=[measured(twins, rates + 2, plain, features)],
        training=measured(pairs, np.repeat(rates, 2), trained, None), gallery=gallery,
        queries=measured(real, rates, plain, features),
    )  # fmt: skip


def test_scores_of_perfect_twins():
    table = score(perfect(60))
    assert list(table.values) == ["twins", "real", "shuffled"]
    twins, real, shuffled = ({key: one and one.value for key, one in row.items()} for row in table.values.values())
    assert twins["heart_rate_mean"] == pytest.approx(2) and real["heart_rate_mean"] == pytest.approx(1)
    assert shuffled["heart_rate_mean"] > 10
    assert twins["einthoven"] == pytest.approx(0.5) and real["einthoven"] == 0
    for space in ("clip", "plain"):
        assert twins[f"fid_{space}"] == pytest.approx(real[f"fid_{space}"]) and real[f"fid_{space}"] > 0.05
        assert real[f"relative_fid_{space}"] == 1 == pytest.approx(twins[f"relative_fid_{space}"])
        scores = [f"{name}_{space}" for name in ("precision", "recall", "f1", "density", "coverage")]
        assert [twins[name] for name in scores] == [real[name] for name in scores]
    assert twins["clip_score"] == real["clip_score"] == pytest.approx(1) and abs(shuffled["clip_score"]) < 0.3
    for space in ("base", "plain"):
        assert twins[f"top1_{space}"] == real[f"top1_{space}"] == 1 and twins[f"eer_{space}"] == 0, space
        assert shuffled[f"top1_{space}"] == 0 and shuffled[f"eer_{space}"] > 0.3
    assert twins["membership"] == real["membership"] and twins["distance_ratio"] == real["distance_ratio"]
    assert twins["wasserstein_rr"] == pytest.approx(real["wasserstein_rr"])
    assert any("0 real records outside the test fold are too few to train a classifier" in note for note in table.notes)


def test_scores_say_what_is_left_out():
    one = perfect(5, vectors=False)
    table = score(dataclasses.replace(one, training=None, gallery=None, queries=None))
    for missing in (
        "no CLIP encoder was given", "3 records are too few for distances and manifolds", "0 people of the test fold",
        "privacy is left out",
    ):  # fmt: skip
        assert any(missing in note for note in table.notes), missing
    assert table.values["twins"]["heart_rate_median"].value == pytest.approx(2)
    assert table.values["twins"]["fid_clip"] is None and table.values["twins"]["top1_plain"] is None


def test_scores_say_where_rates_were_measured_by_xqrs_itself():
    one = perfect(20)
    one.real.rates = one.real.ecgs.heart_rate
    note = "the store's heart rates are XQRS's own, so that real records have no heart-rate error"
    assert note in score(one).notes and note not in score(perfect(20)).notes


def test_conditions_are_judged_by_a_classifier_of_real_records(monkeypatch, with_threads):
    """A finding is a wave. One generator shows it where it is asked for, the other where it is not."""
    with_threads(1)
    monkeypatch.setattr(text_scores, "FEWEST_RECORDS", 40)
    monkeypatch.setattr("ecgtwin_fast.evaluation.classifier.STEPS", (12, 12))
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(1024) / 10)[:, None]

    def records(name: str, count: int, first: int, obeys: bool = True) -> Ecgs:
        shown = np.arange(count) % 2 == 0
        reports = np.where(shown, "atrial flutter", "sinus rhythm").astype(object)
        seen = shown == obeys
        signals = (0.05 * rng.normal(size=(count, 1024, 12)) + seen[:, None, None] * wave).astype(np.float32)
        return ecgs_of(name, first + np.arange(count), np.full(count, 70.0), signals, reports)

    def none(ecgs: Ecgs) -> Measured:
        return measured(ecgs, ecgs.heart_rate, np.full((len(ecgs), len(FEATURES)), np.nan), None)

    trained = []

    def train(signals: np.ndarray, *given, **named) -> Classifier:
        trained.append(len(signals))
        return Classifier(signals, *given, **named)

    monkeypatch.setattr(text_scores, "Classifier", train)
    monkeypatch.setattr(text_scores, "AUGMENTED", 50)
    sets = [none(records("good", 80, 0)), none(records("contrary", 80, 0, obeys=False))]
    table = score(Evidence(none(records("real", 80, 0)), sets, lessons=records("lessons", 60, 100)))
    # The judge, the 50 that are not augmented, three columns, and the two generators' flutters with the 50.
    assert trained == [60, 50, 40, 40, 40, 70, 70]
    found = {column: row["auroc"].value for column, row in table.values.items()}
    assert found["good"] == found["real"] == 1 and found["contrary"] == 0 and 0.2 < found["shuffled"] < 0.8
    assert table.values["good"]["tstr"].value > 0.95 and table.values["contrary"]["tstr"].value < 0.05
    assert table.values["good"]["augmented"].value > 0.95 and table.values["real"]["augmented"].value > 0.95
    row = table.findings["atrial flutter"]
    assert row.pop("shuffled") == pytest.approx(found["shuffled"], abs=0.1)
    assert row == {"training": 30, "good": 1.0, "contrary": 0.0, "real": 1.0}


def test_classifier_is_adapted_to_each_patient(with_threads):
    """A wave means flutter in person 0, as in the lessons, and no flutter in person 1: only the own twins tell."""
    with_threads(1)
    rng = np.random.default_rng(1)
    wave = np.sin(np.arange(1024) / 10)[:, None]

    def records(name: str, person: np.ndarray) -> Ecgs:
        flutter = rng.random(len(person)) < 0.5
        seen = flutter == (person % 2 == 0)
        signals = 0.02 * rng.normal(size=(len(person), 1024, 12)) + seen[:, None, None] * wave
        reports = np.where(flutter, "atrial flutter", "sinus rhythm").astype(object)
        return ecgs_of(name, person, np.full(len(person), 70.0), signals.astype(np.float32), reports)

    names = ["atrial flutter"]
    lessons = records("lessons", np.zeros(64, int))
    judge = Classifier(lessons.signals, label_table(lessons.reports, names), steps=(15, 15))
    personal = Personal(records("twins", np.repeat(np.arange(2), 48)), records("visits", np.repeat(np.arange(2), 12)))
    labels = label_table(personal.visits.reports, names)[:, 0]
    own, swapped = (adapted_scores(judge, names, lessons, personal, 0, other)[:, 0] for other in (False, True))
    before = judge.scores(personal.visits.signals)[:, 0]
    odd = personal.visits.person % 2 == 1
    assert auroc(labels[~odd], before[~odd]) == 1 and auroc(labels[odd], before[odd]) == 0
    assert auroc(labels[odd], own[odd]) == auroc(labels[~odd], own[~odd]) == 1
    assert auroc(labels[odd], swapped[odd]) == auroc(labels[~odd], swapped[~odd]) == 0
    np.testing.assert_array_equal(judge.scores(personal.visits.signals)[:, 0], before)


def test_report_is_written_whole(store, model, tmp_path):
    clip = models.create("clip", **CLIP)
    config = EvaluationConfig(count=9, sampler="dpmpp", steps=2, batch=4)
    report = evaluate(model, clip, store, tmp_path, config, "cpu")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    written = json.loads((tmp_path / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    assert written == report
    assert report["records"] == {"generated": 9, "real": 9} and report["training"] == {}
    assert report["metrics"]["generated"]["fid_clip"]["value"] > 0
    top1 = report["metrics"]["generated"]["top1_base"]
    assert 0 <= top1["low"] <= top1["value"] <= top1["high"] <= 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert NOTICE in page and page.count("data:image/png;base64,") == 1
    assert "http" not in page and "<script" not in page
    assert all(metric.name in page for key, metric in METRICS.items() if report["metrics"]["real"][key])
    assert "18 ± 3.1 (ECGTwin on MIMIC-IV-ECG" in page
    again = evaluate(model, clip, store, tmp_path / "again", config, "cpu")
    assert again["metrics"] == report["metrics"]


def test_evaluation_of_one_patient_and_of_none(model, tmp_path):
    clip = models.create("clip", **CLIP)
    config = EvaluationConfig(sampler="dpmpp", steps=1)
    store = write_store(tmp_path / "one", people=2, test_people=1)
    generated, _, shuffled = evaluate(model, clip, store, tmp_path, config, "cpu")["metrics"].values()
    assert generated["heart_rate_unmeasured"]["value"] in (0, 1) and set(shuffled.values()) == {None}
    with pytest.raises(StoreError, match="none: has no record in the test fold"):
        evaluate(model, clip, write_store(tmp_path / "none", people=1, test_people=0), tmp_path, config)
    with pytest.raises(ECGTwinError, match="evaluation.steps is 0"):
        EvaluationConfig(steps=0)


def test_command_compares_a_model_with_a_folder(store, model, tmp_path, capsys, monkeypatch):
    """Twins in files that are the store's own targets are as good as real; without neurokit2, the page says so."""
    monkeypatch.setattr(beats, "available", lambda: False)
    cases = choose_cases(store, 9, seed=0)
    for reference, target in zip(*cases, strict=True):
        write_wfdb(store.record(target), tmp_path / "copies", f"t{target}", [f"Reference: {store.name(reference)}"])
    out = tmp_path / "out"
    arguments = ["evaluate", "--real", str(store.path), "--out", str(out), "--device", "cpu", "--workers", "1"]
    arguments += ["--model", f"tiny={model}", "--generated", str(tmp_path / "copies"), "--steps", "2"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert str(out / "report.html") in shown.out and NOTICE in shown.out
    assert "neurokit2 is not installed" in shown.err and "no CLIP encoder was given" in shown.err
    report = json.loads((out / "report.json").read_text())
    assert list(report["metrics"]) == ["tiny", "copies", "real", "shuffled"]
    copies, real = report["metrics"]["copies"], report["metrics"]["real"]
    assert copies["heart_rate_median"]["value"] == pytest.approx(real["heart_rate_median"]["value"], abs=0.5)
    assert copies["top1_base"]["value"] == real["top1_base"]["value"] and copies["fid_plain"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to evaluate: give --generated PATH, --model MODEL, or both"),
        (["--generated", "a/b", "c/b"], "two generators are called b"),
        (["--generated", "real=missing"], "different names other than real, shuffled"),
        (["--generated", "missing"], "missing: expected generated ECGs"),
        (["--generated", "missing", "--clip", "missing"], "no trained ECG-text encoder"),
    ],
)
def test_command_says_what_is_wrong(more, message, store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--real", str(store.path), "--out", "out", "--device", "cpu", *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
