"""The training loop resumes exactly; the stages run; augmentation and latent standardisation do what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ecgtwin_fast import models
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import heart_rate_xqrs
from ecgtwin_fast.data.simulated import Condition, Patient, simulate_record
from ecgtwin_fast.errors import CheckpointError
from ecgtwin_fast.training.autoencoder import LATENT_STD, draw_rows, standardise
from ecgtwin_fast.training.bundled import SMOKE, train
from ecgtwin_fast.training.loop import LoopConfig, fit
from ecgtwin_fast.training.rate_variants import median_beat, rate_variant

LOOP = LoopConfig(steps=12, batch=4, learning_rate=1e-2, warmup=3, ema=0.9, bfloat16=False, checkpoint_seconds=0.0)


class Interrupted(Exception):
    pass


def run(tmp_path, name: str, stop_before: int | None = None, config: LoopConfig = LOOP) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))

    def loss(rng, generator, step):
        if step == stop_before:
            raise Interrupted
        x = torch.from_numpy(rng.normal(size=(config.batch, 3)).astype(np.float32))
        noise = 0.1 * torch.randn(config.batch, 1, generator=generator)
        value = (network(x) - x.sum(1, keepdim=True) - noise).square().mean()
        return value, {"loss": value.item()}

    return fit(network, loss, config, tmp_path / f"{name}.pt", name)


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    whole = run(tmp_path, "whole")
    with pytest.raises(Interrupted):
        run(tmp_path, "halves", stop_before=7)
    resumed = run(tmp_path, "halves")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_lowers_the_loss(tmp_path):
    config = dataclasses.replace(LOOP, steps=300, checkpoint_seconds=100.0)
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(1))

    def error(network):
        return float((network(x) - x.sum(1, keepdim=True)).square().mean())

    assert error(run(tmp_path, "long", config=config)) < 0.1 * error(run(tmp_path, "short"))


def test_checkpoint_of_another_configuration_is_refused(tmp_path):
    run(tmp_path, "run")
    with pytest.raises(CheckpointError, match=r"run\.pt: written with .*'steps': 12.*this run has .*'steps': 13"):
        run(tmp_path, "run", config=dataclasses.replace(LOOP, steps=13))


def test_all_stages_run_and_resume_to_the_same_weights(tmp_path):
    first = train(SMOKE, tmp_path, None)
    (tmp_path / "denoiser.pt").unlink()
    again = train(SMOKE, tmp_path, None)
    assert set(first) == {"encoder", "decoder", "extractor", "denoiser"}
    for role, network in first.items():
        for name, value in network.state_dict().items():
            assert value.isfinite().all(), f"{role}.{name}"
            assert torch.equal(value, again[role].state_dict()[name]), f"{role}.{name}"


def test_standardise_keeps_reconstructions_and_sets_the_scale():
    torch.manual_seed(0)
    sizes = {"widths": (16, 16, 16, 16), "groups": 4}
    encoder, decoder = models.create("enc", **sizes), models.create("dec", **sizes)
    signal, noise = torch.randn(2, 1024, 12), torch.randn(2, 4, 128)
    with torch.no_grad():
        before, mean, _ = encoder(signal, noise)
        expected = decoder(before)
        scale, offset = standardise(encoder, decoder, mean * 0.18215)
        after, new_mean, _ = encoder(signal, noise)
        torch.testing.assert_close(decoder(after), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after, before * scale[:, None] + offset[:, None], rtol=1e-4, atol=1e-4)
    scaled = new_mean * 0.18215
    torch.testing.assert_close(scaled.std((0, 2)), torch.full((4,), LATENT_STD), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scaled.mean((0, 2)), torch.zeros(4), rtol=0, atol=1e-3)


def test_draw_rows_mixes_pools_by_share():
    rng = np.random.default_rng(0)
    pools = [np.arange(10), np.arange(10, 100)]
    drawn = draw_rows(pools, 0.25, 4000, rng)
    assert 0.22 < (drawn < 10).mean() < 0.28
    assert (draw_rows([np.array([], int), pools[1]], 0.25, 50, rng) >= 10).all()


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
