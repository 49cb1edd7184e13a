"""The bundled model's training: its cohort, its stages, rate variants of real patients."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import heart_rate_xqrs
from ecgtwin_fast.data.simulated import Condition, Patient, simulate_record
from ecgtwin_fast.data.text import text_encoder
from ecgtwin_fast.diffusets import DiffuSETS
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.pretrained import BUNDLED, BUNDLED_CLIP, BUNDLED_DIFFUSETS
from ecgtwin_fast.training.bundled import SMOKE, train, write_bundle
from ecgtwin_fast.training.cohort import Cohort
from ecgtwin_fast.training.rate_variants import median_beat, rate_variant
from ecgtwin_fast.training.run import load_trained


def test_all_stages_run_and_resume_to_the_same_weights(tmp_path):
    store, first = train(SMOKE, tmp_path, None)
    check_bundle(write_bundle(tmp_path, store, tmp_path / "package"), first)
    shutil.rmtree(tmp_path / "denoiser")
    _, again = train(SMOKE, tmp_path, None)
    assert list(first) == ["autoencoder", "extractor", "denoiser", "diffusets", "clip"]
    for stage, network in first.items():
        for name, value in network.state_dict().items():
            assert value.isfinite().all(), f"{stage}.{name}"
            assert value.equal(again[stage].state_dict()[name]), f"{stage}.{name}"


def check_bundle(folders: list[Path], trained: dict[str, torch.nn.Module]) -> None:
    """The folders hold the trained networks, rounded to 16 bit; both models with one decoder."""
    ecgtwin, diffusets, clip = folders
    model, population = ECGTwin.from_pretrained(ecgtwin, "cpu"), DiffuSETS.from_pretrained(diffusets, "cpu")
    assert not (diffusets / "decoder.safetensors").exists()
    pairs = [(model.networks["denoiser"], trained["denoiser"]), (model.networks["extractor"], trained["extractor"])]
    pairs += [(other.networks["decoder"], trained["autoencoder"].decoder) for other in (model, population)]
    pairs.append((population.networks["denoiser"], trained["diffusets"]))
    pairs.append((load_trained(clip.parent, "clip"), trained["clip"]))
    for network, expected in pairs:
        for name, value in expected.state_dict().items():
            assert network.state_dict()[name].equal(value.half().to(value.dtype)), name


def test_bundled_models_and_their_encoder_are_within_their_sizes():
    def size(folder: Path) -> int:
        return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))

    assert 0 < size(BUNDLED) <= 32e6 and 0 < size(BUNDLED_DIFFUSETS) <= 8e6
    # It reads reports as the bundled models do.
    width = ECGTwin.from_pretrained("bundled", "cpu").config.text_width
    assert load_trained(BUNDLED_CLIP.parent, "clip").encode_text(torch.zeros(1, width)).isfinite().all()


def test_cohort_of_simulated_people(tmp_path):
    cohort = Cohort(simulated=3, max_tokens=1)
    store = cohort.store(tmp_path, text_encoder("hash", 32))
    assert store.person.tolist() == [0, 0, 1, 1, 2, 2] and store.target.all() and not store.real.any()
    assert store.tokens.shape[1] == 1 and not store.test.any()
    assert cohort.store(tmp_path, text_encoder("hash", 32)).digest == store.digest
    with pytest.raises(ECGTwinError, match=r"holds a cohort of .*'simulated': 3.*this run has .*'simulated': 4"):
        Cohort(simulated=4, max_tokens=1).store(tmp_path, text_encoder("hash", 32))


def sinus_record(report: str = "sinus rhythm") -> tuple:
    rng = np.random.default_rng(4)
    patient = Patient.draw(rng)
    return simulate_record(patient, rng, Condition.from_report(report, 70, 60, "F")), rng


def test_rate_variant_has_the_stated_rate_and_the_patients_beat():
    record, rng = sinus_record()
    beat = median_beat(record)
    assert beat is not None
    for _ in range(4):
        variant = rate_variant(record, beat, rng)
        measured = heart_rate_xqrs(variant.signal, variant.sampling_rate, MODEL_LEADS)
        assert abs(measured - variant.heart_rate) < 4
        rhythm = "tachycardia" if variant.heart_rate > 100 else "bradycardia" if variant.heart_rate < 60 else "rhythm"
        assert variant.report == f"sinus {rhythm}"
        spread = [np.ptp(variant.lead(lead)) / np.ptp(record.lead(lead)) for lead in ("II", "V2", "V5")]
        assert np.allclose(spread, 1, atol=0.35)
        assert np.abs(variant.lead("I") + variant.lead("III") - variant.lead("II")).max() < 0.05


def test_no_rate_variants_without_sinus_rhythm():
    record, _ = sinus_record("atrial fibrillation")
    assert median_beat(record) is None
