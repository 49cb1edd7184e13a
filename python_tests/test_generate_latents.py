"""`generate_latents`: validation, backend choice, independence of the batch."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import ecgtwin_fast
from ecgtwin_fast import models, samplers
from ecgtwin_fast.engine import backends, choice
from ecgtwin_fast.engine.latents import Latents, generate_latents
from ecgtwin_fast.errors import BackendError, ConditionError, ECGTwinError
from ecgtwin_fast.samplers import SamplerError

BATCH, TOKENS, WIDTH, BASE = 5, 3, 24, 16


@pytest.fixture(scope="module")
def denoiser() -> nn.Module:
    torch.manual_seed(0)
    network = models.create("dit", hidden=64, depth=2, heads=4, text_width=WIDTH, base_width=BASE)
    return network.eval().requires_grad_(False)


@pytest.fixture
def conditions() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(BATCH, TOKENS)
    mask[1, 1:] = 0
    mask[3, 2:] = 0
    return {
        "text_embed": torch.randn(BATCH, TOKENS, WIDTH, generator=generator),
        "text_mask": mask,
        "patient": torch.randn(BATCH, 3, generator=generator),
        "base_vector": torch.randn(BATCH, BASE, generator=generator),
    }


def rows(conditions, b):
    return {name: value[b : b + 1] for name, value in conditions.items()}


@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_equals_the_pure_sampler(denoiser, conditions, sampler):
    options = {"sampler": sampler, "steps": 6, "seed": 11, "first_index": 2, "backend": "reference"}
    result = generate_latents(denoiser, **conditions, **options)
    assert isinstance(result, Latents) and result.backend == "reference"
    assert result.latents.shape == (BATCH, 4, 128) and result.latents.dtype == torch.float32
    assert not result.latents.requires_grad
    text, mask, patient, base = conditions.values()
    plan = samplers.schedule(sampler, 6)
    expected = samplers.sample(
        plan, lambda x, t: denoiser(x, t, text, mask, patient, base), (BATCH, 4, 128), seed=11, first_index=2
    )
    assert torch.equal(result.latents, expected)


@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_a_record_does_not_depend_on_its_batch(denoiser, conditions, sampler):
    together = generate_latents(
        denoiser, **conditions, sampler=sampler, steps=12, seed=5, first_index=100, backend="reference"
    ).latents
    for b in range(BATCH):
        options = {"sampler": sampler, "steps": 12, "seed": 5, "first_index": 100 + b}
        alone = generate_latents(denoiser, **rows(conditions, b), **options, backend="reference").latents[0]
        assert (alone - together[b]).norm() / together[b].norm() < 5e-6
    assert (together[0] - together[1]).abs().max() > 0.1


def test_seed_and_index_change_a_record(denoiser, conditions):
    first = generate_latents(denoiser, **conditions, steps=4, seed=1).latents
    assert torch.equal(first, generate_latents(denoiser, **conditions, steps=4, seed=1).latents)
    for other in ({"seed": 2}, {"seed": 1, "first_index": 1}):
        assert (first - generate_latents(denoiser, **conditions, steps=4, **other).latents).abs().max() > 0.1


def test_bfloat16_is_close_and_the_trajectory_stays_float32(denoiser, conditions):
    single = generate_latents(denoiser, **conditions, sampler="dpmpp", steps=8, dtype=torch.float32).latents
    half = generate_latents(denoiser, **conditions, sampler="dpmpp", steps=8, dtype=torch.bfloat16).latents
    assert half.dtype == torch.float32
    error = float((half - single).norm() / single.norm())
    assert 1e-5 < error < 5e-2


def test_given_start_and_noise_are_used(denoiser, conditions):
    x_init, noise = torch.zeros(BATCH, 4, 128), torch.zeros(4, BATCH, 4, 128)
    given = {"x_init": x_init, "noise": noise, "steps": 4}
    first = generate_latents(denoiser, **conditions, **given, seed=1).latents
    assert torch.equal(first, generate_latents(denoiser, **conditions, **given, seed=2).latents)


def test_any_callable_and_its_latent_shape(conditions):
    class Tiny(nn.Module):
        channels, length = 2, 10

        def forward(self, x, t, text_embed, text_mask, patient, base_vector):
            return x * patient[:, :1, None]

    options = {"steps": 3, "backend": "reference"}
    assert generate_latents(Tiny(), **conditions, **options).latents.shape == (BATCH, 2, 10)
    assert generate_latents(lambda x, *_: x, **conditions, **options).latents.shape == (BATCH, 4, 128)


def test_progress(denoiser, conditions):
    seen = []
    options = {"steps": 3, "backend": "reference"}
    generate_latents(denoiser, **conditions, **options, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_public_name():
    assert ecgtwin_fast.generate_latents is generate_latents


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text_embed": torch.zeros(5, 24)}, ConditionError, r"text_embed must have shape .* but it has \(5, 24\)"),
        ({"text_embed": torch.zeros(5, 0, 24)}, ConditionError, "none of them 0"),
        ({"text_mask": torch.ones(5, 2)}, ConditionError, r"text_mask must have shape \(5, 3\), but it has \(5, 2\)"),
        ({"text_mask": torch.tensor([[1, 0, 0]] * 4 + [[0, 0, 0]])}, ConditionError, "leaves record 4 of the batch"),
        ({"patient": torch.zeros(5, 2)}, ConditionError, r"patient must have shape \(5, 3\), but it has \(5, 2\)"),
        ({"patient": torch.zeros(4, 3)}, ConditionError, r"patient must have shape \(5, 3\), but it has \(4, 3\)"),
        ({"base_vector": torch.zeros(4, 16)}, ConditionError, r"base_vector must have shape \(5, .*\(4, 16\)"),
        ({"base_vector": torch.zeros(5, 1, 16)}, ConditionError, r"base_vector must have shape \(5, .*\(5, 1, 16\)"),
        ({"sampler": "euler"}, SamplerError, "unknown sampler 'euler'"),
        ({"steps": 0}, SamplerError, "steps must be an integer in 1..1000, but it is 0"),
        ({"steps": 1001}, SamplerError, "steps must be"),
        ({"seed": 2**64}, SamplerError, "seed must be"),
        ({"first_index": -1}, SamplerError, "first_index must be"),
        ({"x_init": torch.zeros(5, 128, 4)}, SamplerError, r"x_init must have shape \(5, 4, 128\)"),
        ({"noise": torch.zeros(3, 5, 4, 128)}, SamplerError, r"noise must have shape \(4, 5, 4, 128\)"),
        ({"backend": "tpu"}, BackendError, "unknown backend 'tpu'; known: auto, .*reference"),
        ({"dtype": torch.float16, "backend": "reference"}, BackendError, "dtype must be .* but it is torch.float16"),
        ({"dtype": torch.float16}, BackendError, "backend 'reference' cannot run: dtype must be"),
        ({"backend": "cpu"}, BackendError, "backend 'cpu' cannot run: it runs the denoiser models.create"),
    ],
)
def test_bad_input(denoiser, conditions, change, error, message):
    calls = []

    def spy(x, *_):
        calls.append(x)
        return x

    with pytest.raises(error, match=message) as caught:
        generate_latents(spy, **{**conditions, "steps": 4, **change})
    assert isinstance(caught.value, ECGTwinError)
    assert not calls


@pytest.mark.parametrize(
    ("name", "attribute", "size"), [("text_embed", "text_width", 768), ("base_vector", "base_width", 256)]
)
def test_widths_are_checked_where_the_denoiser_states_them(conditions, name, attribute, size):
    network = nn.Identity()
    setattr(network, attribute, size)
    with pytest.raises(ConditionError, match=rf"{name} must have shape .*{size}\), but it has"):
        generate_latents(network, **conditions, steps=1)


def test_reasons_are_all_listed(conditions):
    with pytest.raises(BackendError) as caught:
        generate_latents(nn.Linear(2, 2).half(), **conditions, steps=1, dtype=torch.float64, backend="reference")
    assert "dtype must be torch.float32 or torch.bfloat16, but it is torch.float64" in str(caught.value)
    assert "the denoiser's weights must be torch.float32, but some are torch.float16" in str(caught.value)


class Fake:
    """A faster backend that may refuse."""

    name = "fake"
    device = None

    def __init__(self, reasons):
        self.reasons = reasons

    def not_supported_reasons(self, request):
        return self.reasons

    def run(self, request):
        return torch.zeros(request.shape)


@pytest.fixture
def fake(monkeypatch):
    def install(*reasons):
        monkeypatch.setattr(backends, "BACKENDS", [Fake(list(reasons)), backends.Reference()])
        choice.say_once.cache_clear()

    return install


def test_auto_takes_the_first_backend_that_can_run(fake, denoiser, conditions):
    fake()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate_latents(denoiser, **conditions, steps=1).backend == "fake"
        assert generate_latents(denoiser, **conditions, steps=1, backend="reference").backend == "reference"


def test_auto_says_once_what_it_fell_back_to(fake, denoiser, conditions):
    fake("no accelerator", "too old")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert generate_latents(denoiser, **conditions, steps=1).backend == "reference"
    assert [str(warning.message) for warning in caught] == [
        "using backend 'reference', because backend 'fake' cannot run: no accelerator; too old"
    ]
    assert caught[0].filename == __file__


def test_a_backend_asked_for_by_name_does_not_fall_back(fake, denoiser, conditions):
    fake("no accelerator", "too old")
    with pytest.raises(BackendError, match="backend 'fake' cannot run: no accelerator; too old"):
        generate_latents(denoiser, **conditions, steps=1, backend="fake")


def test_clipping_samplers_clip_at_the_denoisers_own_range():
    def overshooting(x, t, *conditions):
        return -100 * torch.ones_like(x)

    text, patient, base = torch.zeros(1, 1, 768), torch.zeros(1, 3), torch.zeros(1, 256)
    for limit in (1.0, 6.0):
        overshooting.clip_sample_range = limit
        made = generate_latents(overshooting, text, None, patient, base, sampler="ddpm", steps=5).latents
        torch.testing.assert_close(made, torch.full_like(made, limit))
