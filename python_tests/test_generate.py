"""From a record to its twins, with tiny random networks: what does not depend on how good a model is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_model import CONFIG, patient, states, write_tiny_model

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.data.condition import patient_vector
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import prepare
from ecgtwin_fast.data.record import write_wfdb
from ecgtwin_fast.errors import BackendError, CheckpointError, ConditionError, ECGTwinError, TextEncoderError
from ecgtwin_fast.generate import Condition
from ecgtwin_fast.models.vae import LATENT_SCALE
from ecgtwin_fast.samplers import DEFAULT_SAMPLER

REPORT = "atrial fibrillation|rapid ventricular response"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ECGTwin.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny")), device="cpu")


def signals(records):
    return np.stack([record.signal for record in records])


def test_twins_are_records_under_the_condition(model):
    twins = model.generate(patient(), REPORT, heart_rate=120, age=71, sex="M", count=3, steps=2, seed=7)
    assert len(twins) == 3
    for index, twin in enumerate(twins):
        assert twin.signal.shape == (1024, 12) and np.isfinite(twin.signal).all()
        assert (twin.leads, twin.sampling_rate) == (MODEL_LEADS, 102.4)
        assert (twin.report, twin.heart_rate, twin.age, twin.sex) == (REPORT, 120, 71, "M")
        assert twin.source == f"ECGTwin {model.name} seed 7 index {index}"
    different = np.abs(signals(twins)[:, None] - signals(twins)[None]).max(axis=(2, 3))
    assert (different[~np.eye(3, dtype=bool)] > 1e-3).all()


def test_the_references_heart_rate_age_and_sex_stand_in(model):
    reference = patient()
    twin = model.generate(reference, REPORT, count=1, steps=1)[0]
    assert (twin.heart_rate, twin.age, twin.sex) == (reference.heart_rate, reference.age, reference.sex)


def test_a_twin_does_not_depend_on_its_batch(model):
    def run(**options):
        return signals(model.generate(patient(), REPORT, steps=3, sampler="ddpm", seed=5, **options))

    whole = run(count=5)
    np.testing.assert_allclose(run(count=5, batch_size=2), whole, atol=1e-5)
    np.testing.assert_allclose(run(count=2, first_index=3, batch_size=1), whole[3:], atol=1e-5)
    assert np.abs(run(count=5) - whole).max() == 0


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"sampler": "ddim"}, {"steps": 4}, {"report": "sinus rhythm"}, {"heart_rate": 50}, {"age": 20}],
)
def test_every_part_of_the_condition_and_the_seed_matter(model, change):
    settings = {"report": REPORT, "count": 1, "steps": 3, "sampler": "dpmpp"}
    plain, changed = (signals(model.generate(patient(), **settings | extra)) for extra in ({}, change))
    assert np.abs(plain - changed).max() > 1e-4


def test_the_patient_matters(model):
    other = dataclasses.replace(patient(), signal=0.5 * patient().signal[:, ::-1])
    twins = [model.generate(record, REPORT, count=1, steps=3)[0].signal for record in (patient(), other)]
    assert np.abs(twins[0] - twins[1]).max() > 1e-4


def test_base_vector_is_the_extractor_on_the_mean_latent(model):
    record = prepare(patient())
    _, mean, _ = model.networks["encoder"](torch.from_numpy(record.signal)[None], torch.randn(1, 4, 128))
    text = torch.from_numpy(model.text_encoder.encode(record.report.split("|")))[None]
    numbers = torch.from_numpy(patient_vector(record.heart_rate, record.age, record.sex))[None]
    latent = (mean * LATENT_SCALE).transpose(1, 2)
    expected = model.networks["extractor"].extract_features(latent, text, None, numbers)[0]
    torch.testing.assert_close(model.base_vector(patient()), expected)
    assert expected.shape == (32,)


@pytest.mark.parametrize("field", ["report", "age", "sex"])
def test_base_vector_without_condition_is_class_free(model, field):
    record = prepare(patient())
    latent, _, _ = model.networks["encoder"](torch.from_numpy(record.signal)[None], torch.zeros(1, 4, 128))
    expected = model.networks["extractor"].extract_features(latent.transpose(1, 2), None, None, None)[0]
    lacking = dataclasses.replace(patient(), **{field: None})
    torch.testing.assert_close(model.base_vector(lacking), expected)
    assert (model.base_vector(patient()) - expected).abs().max() > 1e-4


def test_a_run_says_how_it_was_made(model):
    seen = []
    condition = Condition(REPORT, 120, 71, "F")
    run = model.sample(
        model.base_vector(patient()), condition, count=3, batch_size=2, steps=4, seed=9, first_index=2,
        backend="reference", progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(done, 8) for done in range(1, 9)]
    assert (run.backend, run.device, run.condition, run.model) == ("reference", "cpu", condition, model.name)
    assert (run.sampler, run.steps, run.seed, run.first_index) == (DEFAULT_SAMPLER, 4, 9, 2)
    assert len(run.records) == 3 and run.seconds > 0


def test_a_saved_model_gives_the_same_twins(model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    copy = ECGTwin.from_pretrained(tmp_path / "copy", device="cpu")
    options = {"report": REPORT, "count": 2, "steps": 2}
    np.testing.assert_array_equal(
        signals(copy.generate(patient(), **options)), signals(model.generate(patient(), **options))
    )
    assert copy.card == model.card == "# tiny\n"


def test_twins_are_references_too(model, tmp_path):
    """What is written can be read and used again: 102.4 Hz survives the WFDB header."""
    twin = model.generate(patient(), REPORT, heart_rate=100, count=1, steps=2)[0]
    path = write_wfdb(twin, tmp_path, "twin")
    from ecgtwin_fast import read_record

    again = read_record(path)
    assert (again.sampling_rate, again.report, again.heart_rate) == (102.4, REPORT, 100)
    np.testing.assert_allclose(prepare(again).signal, twin.signal, atol=6e-4)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"report": " | "}, ConditionError, "report is empty"),
        ({"age": 400}, ConditionError, "age is 400: expected 0..120 years"),
        ({"heart_rate": 10}, ConditionError, "heart rate is 10: expected 20..300 bpm"),
        ({"sex": "x"}, ConditionError, "sex is 'x': expected 'F' or 'M'"),
        ({"report": "a|b|c|d|e"}, ConditionError, "report has 5 statements; model .* takes 4 at most"),
        ({"count": 0}, ECGTwinError, "count is 0, expected at least 1"),
        ({"batch_size": 0}, ECGTwinError, "batch_size is 0, expected at least 1"),
        ({"steps": 1001}, ECGTwinError, "steps .* 1001"),
        ({"sampler": "euler"}, ECGTwinError, "unknown sampler 'euler'"),
        ({"backend": "abacus"}, BackendError, "unknown backend 'abacus'"),
    ],
)
def test_bad_conditions(model, options, error, message):
    with pytest.raises(error, match=message):
        model.generate(patient(), **{"report": REPORT, "steps": 1} | options)


def test_a_reference_without_age_needs_one(model):
    unknown = dataclasses.replace(patient(), age=None, sex=None)
    with pytest.raises(ConditionError, match="states no age, sex: give them"):
        model.generate(unknown, REPORT, steps=1)
    assert model.generate(unknown, REPORT, age=50, sex="F", count=1, steps=1)[0].age == 50


def test_an_unknown_device_is_a_clear_error(tmp_path):
    with pytest.raises(BackendError, match="device 'cuda:99' cannot be used"):
        ECGTwin.from_pretrained(write_tiny_model(tmp_path), device="cuda:99")


def test_a_text_encoder_that_cannot_be_had_is_a_clear_error(model, tmp_path):
    config = dataclasses.replace(CONFIG, text_encoder=str(tmp_path / "nowhere"))
    other = ECGTwin(config, model.networks, device="cpu")
    with pytest.raises(TextEncoderError, match="nowhere"):
        other.base_vector(patient())


def test_a_missing_model_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such model directory"):
        ECGTwin.from_pretrained(tmp_path / "nowhere")


def test_states_are_what_the_test_helper_says(model):
    assert torch.equal(model.networks["denoiser"].x_embedder.weight, states()["denoiser"]["x_embedder.weight"])


def test_a_batch_of_different_twins_is_each_of_them_alone(model):
    """Bits, because the CPU engine promises them; the reports differ in length."""
    reports = [REPORT, "sinus rhythm", "left bundle branch block|sinus rhythm|PVC"]
    conditions = [Condition(report, 60 + 10 * place, 50, "F") for place, report in enumerate(reports)]
    own = model.base_vector(patient())
    bases = torch.stack([own, torch.zeros_like(own), own])
    options = {"steps": 3, "sampler": "ddpm", "seed": 3}
    together = model.signals(bases, conditions, first_index=5, **options)
    assert together.backend == "cpu"
    for place, (base, condition) in enumerate(zip(bases, conditions, strict=True)):
        alone = model.sample(base, condition, count=1, first_index=5 + place, **options)
        assert np.array_equal(alone.records[0].signal, together.signals[place])


@pytest.mark.parametrize("threads", [3, 16])
def test_twins_have_the_same_bits_by_any_number_of_threads(with_threads, threads):
    """At the bundled model's sizes, where a library's products of few rows depend on the number of threads."""
    bundled = ECGTwin.from_pretrained("bundled", "cpu")
    options = {"count": 2, "steps": 5, "backend": "cpu"}
    with_threads(1)
    expected = signals(bundled.generate(patient(), "sinus rhythm", **options))
    with_threads(threads)
    assert np.array_equal(signals(bundled.generate(patient(), "sinus rhythm", **options)), expected)
