"""The scheduler beside diffusers' own, step by step, and the whole loop in one call."""

from __future__ import annotations

import diffusers
import pytest
import torch
from golden_data import relative_error
from published_style import MyNoisePredictor

from ecgtwin_fast import generate_latents
from ecgtwin_fast.samplers import SamplerError
from ecgtwin_fast.scheduler import DDPMScheduler, fast_ddpm_generation

SETTINGS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.0120}


def pair(steps: int | None, **changes) -> tuple[diffusers.DDPMScheduler, DDPMScheduler]:
    theirs = diffusers.DDPMScheduler(**SETTINGS, **changes)
    both = theirs, DDPMScheduler.from_config(theirs.config)
    for scheduler in both if steps else ():
        scheduler.set_timesteps(steps)
    return both


def run(scheduler, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, 128, generator=generator).to(dtype)
    for t in scheduler.timesteps:
        eps = torch.sin(3 * scheduler.scale_model_input(x, t)) + 0.5 * x
        x = scheduler.step(eps, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("steps", [None, 1000, 25, 7, 1])
def test_the_same_trajectory_as_diffusers(steps):
    theirs, ours = pair(steps)
    assert torch.equal(theirs.timesteps, ours.timesteps) and len(theirs) == len(ours)
    assert ours.num_inference_steps == theirs.num_inference_steps
    assert relative_error(run(ours, 1), run(theirs, 1)) <= 1e-5


@pytest.mark.parametrize("changes", [{"clip_sample": False}, {"clip_sample_range": 2.5}])
def test_clipping(changes):
    theirs, ours = pair(25, **changes)
    x, eps = torch.randn(2, 4, 128) * 3, torch.randn(2, 4, 128)
    for t in theirs.timesteps[[0, 12, 24]]:
        generators = [torch.Generator().manual_seed(5) for _ in range(2)]
        a, b = (s.step(eps, t, x, generator=g) for s, g in zip((ours, theirs), generators, strict=True))
        torch.testing.assert_close(a.prev_sample, b.prev_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.pred_original_sample, b.pred_original_sample, rtol=1e-5, atol=1e-5)


def test_draws_are_those_of_diffusers():
    theirs, ours = pair(25)
    x, eps, t = torch.randn(3, 4, 16), torch.randn(3, 4, 16), int(ours.timesteps[4])
    for make in (lambda: None, lambda: torch.Generator().manual_seed(2),
                 lambda: [torch.Generator().manual_seed(i) for i in range(3)]):  # fmt: skip
        torch.manual_seed(8)
        a, first = ours.step(eps, t, x, generator=make(), return_dict=False), torch.randn(1)
        torch.manual_seed(8)
        b, second = theirs.step(eps, t, x, generator=make(), return_dict=False), torch.randn(1)
        assert isinstance(a, tuple) and torch.equal(first, second)
        out = ours.step(eps, t, x, generator=torch.Generator().manual_seed(2))
        assert out[0] is out.prev_sample is out["prev_sample"] and out[1] is out.pred_original_sample
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_gradients(dtype):
    _, ours = pair(25)
    x, eps = torch.randn(2, 4, 16, dtype=dtype), torch.randn(2, 4, 16, dtype=dtype, requires_grad=True)
    made = ours.step(eps, ours.timesteps[-1], x)
    assert made.prev_sample.dtype == dtype
    made.prev_sample.float().sum().backward()
    assert eps.grad is not None and eps.grad.isfinite().all()


def test_add_noise():
    theirs, ours = pair(None)
    x, noise, t = torch.randn(3, 4, 128), torch.randn(3, 4, 128), torch.tensor([0, 500, 999])
    torch.testing.assert_close(ours.add_noise(x, noise, t), theirs.add_noise(x, noise, t), rtol=1e-6, atol=1e-6)


def test_config_round_trip():
    _, ours = pair(None, clip_sample_range=2.0)
    assert ours.config.clip_sample_range == ours.config["clip_sample_range"] == 2.0
    again = DDPMScheduler.from_config(ours.config, clip_sample=False)
    assert again.config == {**ours.config, "clip_sample": False}
    with pytest.raises(AttributeError, match="no entry 'beta'"):
        ours.config.beta  # noqa: B018


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_end": 0.02}, "beta_end must be 0.012, as published, but it is 0.02"),
        ({"prediction_type": "sample"}, "prediction_type must be 'epsilon'"),
        ({"gamma": 1}, "unknown setting gamma"),
    ],
)
def test_settings_that_are_not_the_published(change, message):
    with pytest.raises(SamplerError, match=message):
        DDPMScheduler(**{**SETTINGS, **change})


def test_timesteps_that_are_not_performed():
    _, ours = pair(25)
    with pytest.raises(SamplerError, match="timestep 3 is none of the 25"):
        ours.step(torch.zeros(1, 4, 8), 3, torch.zeros(1, 4, 8))
    with pytest.raises(SamplerError, match="steps must be an integer in 1..1000"):
        ours.set_timesteps(1001)
    theirs, _ = pair(None)
    theirs.set_timesteps(timesteps=[999, 500, 3])
    with pytest.raises(SamplerError, match="timesteps must be evenly spaced"):
        fast_ddpm_generation(theirs, MyNoisePredictor(), 1, "cpu", *torch.zeros(4, 1), progress_bar=False)


def test_a_seed_keys_the_draws_by_record(capsys):
    torch.manual_seed(0)
    module, (_, ours) = MyNoisePredictor().eval(), pair(5)
    text, patient, base = torch.randn(1, 2, 48), torch.randn(1, 3), torch.randn(1, 32)
    made = fast_ddpm_generation(ours, module, 3, "cpu", text, None, patient, base, seed=4)
    assert "5/5" in capsys.readouterr().err
    with torch.no_grad():
        given = text.expand(2, -1, -1), None, patient.expand(2, -1), base.expand(2, -1)
        expected = generate_latents(module, *given, steps=5, seed=4, backend="reference").latents
    assert relative_error(made[:2], expected) <= 1e-5
