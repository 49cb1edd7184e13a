"""The samplers against diffusers, and the properties that diffusers does not have."""

from __future__ import annotations

import warnings

import pytest
import torch

from ecgtwin_fast import samplers
from ecgtwin_fast.philox import INITIAL_STEP, normal
from ecgtwin_fast.samplers import SamplerError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
    from diffusers.schedulers import scheduling_ddpm

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (3, 4, 16)
BETAS = {"beta_start": 0.00085, "beta_end": 0.0120}
MIXING = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) / 2


def eps(x, t):
    """A smooth stand-in for a denoiser, strong enough that x0 is clipped in part."""
    mixed = torch.einsum("ij,bjl->bil", MIXING.to(x), x)
    return torch.tanh(mixed) + 0.3 * x * torch.cos(t.to(x) / 300)[:, None, None]


def draws(steps, dtype=torch.float32):
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(SHAPE, generator=generator, dtype=dtype)
    return x, torch.randn(steps, *SHAPE, generator=generator, dtype=dtype)


def relative_error(value, expected):
    return float((value - expected).norm() / expected.norm())


def diffusers_ddpm(monkeypatch, x, noise):
    scheduler, upcoming = DDPMScheduler(**BETAS), iter(noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(upcoming))
    return scheduler, lambda e, t, x: scheduler.step(e, t, x).prev_sample


def diffusers_ddim(eta):
    def make(monkeypatch, x, noise):
        scheduler, upcoming = DDIMScheduler(**BETAS), iter(noise)
        draw = (lambda: next(upcoming)) if eta else (lambda: None)
        return scheduler, lambda e, t, x: scheduler.step(e, t, x, eta=eta, variance_noise=draw()).prev_sample

    return make


def diffusers_dpm(monkeypatch, x, noise):
    scheduler = DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing")
    return scheduler, lambda e, t, x: scheduler.step(e, t, x).prev_sample


def diffusers_sde_dpm(monkeypatch, x, noise):
    settings = {"timestep_spacing": "trailing", "algorithm_type": "sde-dpmsolver++"}
    scheduler, upcoming = DPMSolverMultistepScheduler(**BETAS, **settings), iter(noise)
    return scheduler, lambda e, t, x: scheduler.step(e, t, x, variance_noise=next(upcoming)).prev_sample


PEERS = {
    "ddpm": (samplers.ddpm_schedule, diffusers_ddpm),
    "ddim": (samplers.ddim_schedule, diffusers_ddim(0.0)),
    "ddim eta 0.6": (lambda steps: samplers.ddim_schedule(steps, eta=0.6), diffusers_ddim(0.6)),
    "ddim eta 1": (lambda steps: samplers.ddim_schedule(steps, eta=1.0), diffusers_ddim(1.0)),
    "dpmpp": (samplers.dpm_solver_pp_schedule, diffusers_dpm),
    "sde-dpmpp eta 1": (lambda steps: samplers.sde_dpm_solver_pp_schedule(steps, eta=1.0), diffusers_sde_dpm),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 50, 333, 1000])
@pytest.mark.parametrize("name", PEERS)
def test_equals_diffusers(monkeypatch, name, steps):
    schedule, make = PEERS[name]
    x, noise = draws(steps)
    expected = x
    scheduler, step = make(monkeypatch, x, noise)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == schedule(steps).timesteps.tolist()
    for t in scheduler.timesteps:
        expected = step(eps(expected, t.expand(len(x))), t, expected)
    result = samplers.sample(schedule(steps), eps, SHAPE, x_init=x, noise=noise)
    # diffusers computes DDIM's and DPM-Solver++'s coefficients in fp32, which costs it more the shorter its steps.
    assert relative_error(result, expected) < (1e-6 if steps <= 25 else 3e-5)


def test_timesteps_are_those_of_diffusers_for_every_number_of_steps():
    peers = {"ddpm": DDPMScheduler(**BETAS), "dpmpp": diffusers_dpm(None, None, None)[0]}
    compared = 0
    for steps in range(1, 1001):
        for name, scheduler in peers.items():
            mine = samplers.schedule(name, steps).timesteps
            assert len(mine) == steps and (mine.diff() < 0).all() and mine.min() >= 0
            scheduler.set_timesteps(steps)
            # For some numbers of steps diffusers' trailing spacing gives one too many.
            assert mine.tolist() == scheduler.timesteps.tolist()[:steps]
            compared += len(scheduler.timesteps) == steps
    assert compared > 1900


def test_noise_shares_are_those_of_diffusers_and_the_same_on_every_machine():
    shares = samplers.alphas_cumprod()
    torch.testing.assert_close(shares, DDPMScheduler(**BETAS).alphas_cumprod, rtol=1e-6, atol=0)
    assert int(shares.view(torch.int32).long().sum()) == 1037138431736
    assert int(samplers.ddpm_schedule(1000).coefficients.view(torch.int32).long().sum()) == 6297228372689


@pytest.mark.parametrize("steps", [2, 3, 10, 1000])
def test_dpm_solver_pp_keeps_the_noise_level_of_a_known_solution(steps):
    """With x0 known exactly, every step lands on alpha x0 + sigma eps."""
    plan = samplers.dpm_solver_pp_schedule(steps)
    share = samplers.alphas_cumprod()[plan.timesteps]
    x0, noise = draws(1, torch.float64)[0].clamp(-1, 1), draws(2, torch.float64)[0]
    x, x0_prev = share[0].sqrt() * x0 + (1 - share[0]).sqrt() * noise, None
    for i in range(steps):
        x, x0_prev = samplers.step(x, noise, x0_prev, None, plan.coefficients[i])
        after = share[i + 1] if i + 1 < steps else torch.tensor(1.0)
        assert relative_error(x, after.sqrt() * x0 + (1 - after).sqrt() * noise) < 1e-5


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 3.0])
def test_dpm_solver_pp_draws_as_much_noise_as_it_takes_away(eta):
    plan = samplers.dpm_solver_pp_schedule(25, eta=eta)
    sigma, inv_alpha, _, k_x, k_x0, k_prev, _, k_noise = plan.coefficients.double().unbind(1)
    alpha_after, sigma_after = torch.cat([1 / inv_alpha[1:], torch.ones(1)]), torch.cat([sigma[1:], torch.zeros(1)])
    torch.testing.assert_close((k_x * sigma) ** 2 + k_noise**2, sigma_after**2, rtol=1e-6, atol=0)
    torch.testing.assert_close(k_x / inv_alpha + k_x0 + k_prev, alpha_after, rtol=1e-6, atol=0)
    assert (k_noise > 0).tolist() == [eta > 0] * 24 + [False]


def test_dpm_solver_pp_converges_at_second_order():
    """Where x0 ~ N(0, 1/4) the exact trajectory scales with the deviation of x. Up to timestep 99, steps of half the
    length leave at most a quarter or so of the error (a first-order solver: half)."""
    shares = samplers.alphas_cumprod().double()

    def error(steps):
        plan = samplers.dpm_solver_pp_schedule(steps)
        variance = 1 - 0.75 * shares[plan.timesteps]
        x, x0_prev = torch.ones(1, 1, 1, dtype=torch.float64), None
        for i in range(plan.timesteps.tolist().index(99)):
            eps = x * (1 - shares[plan.timesteps[i]]).sqrt() / variance[i]
            x, x0_prev = samplers.step(x, eps, x0_prev, None, plan.coefficients[i])
        return abs(float(x / (variance[i + 1] / variance[0]).sqrt()) - 1)

    assert error(20) < 0.005
    for steps in (20, 50, 100):
        assert error(steps) / error(2 * steps) > 3.5


def test_noise_and_start_default_to_the_keyed_draws():
    records, count = torch.arange(40, 43), 4 * 16
    x_init = normal(9, records, INITIAL_STEP, count).view(SHAPE)
    noise = torch.stack([normal(9, records, i, count).view(SHAPE) for i in range(10)])
    keyed = samplers.ddpm(eps, SHAPE, 10, seed=9, first_index=40)
    assert torch.equal(keyed, samplers.ddpm(eps, SHAPE, 10, x_init=x_init, noise=noise))


@pytest.mark.parametrize("name", ["ddpm", "ddim eta 0.6", "dpmpp", "sde-dpmpp eta 1"])
def test_a_record_does_not_depend_on_its_batch(name):
    def elementwise(x, t):
        return torch.tanh(x) + 0.1 * torch.cos(t / 300)[:, None, None]

    plan = PEERS[name][0](12)
    together = samplers.sample(plan, elementwise, (5, 4, 16), seed=3, first_index=7)
    for b in range(5):
        alone = samplers.sample(plan, elementwise, (1, 4, 16), seed=3, first_index=7 + b)
        assert torch.equal(alone[0], together[b])


@pytest.mark.parametrize("name", ["ddim", "dpmpp"])
def test_deterministic_samplers_draw_no_noise(name):
    plan, x = PEERS[name][0](8), draws(8)[0]
    assert not any(plan.uses("k_noise"))
    poisoned = torch.full((8, *SHAPE), torch.nan)
    assert torch.equal(
        samplers.sample(plan, eps, SHAPE, x_init=x, noise=poisoned), samplers.sample(plan, eps, SHAPE, x_init=x)
    )


def test_the_last_step_of_ddpm_ignores_its_noise():
    x, noise = draws(6)
    poisoned = noise.clone()
    poisoned[-1] = torch.nan
    expected = samplers.ddpm(eps, SHAPE, 6, x_init=x, noise=noise)
    assert torch.equal(samplers.ddpm(eps, SHAPE, 6, x_init=x, noise=poisoned), expected)


def test_clipping():
    def wild(x, t):
        return 100 * x

    x = draws(1)[0]
    assert samplers.ddpm(wild, SHAPE, 1, x_init=x).abs().max() == 1
    assert samplers.ddim(wild, SHAPE, 1, x_init=x, clip=0.5).abs().max() == 0.5
    assert samplers.dpm_solver_pp(wild, SHAPE, 1, x_init=x, clip=2.0).abs().max() == 2
    assert samplers.dpm_solver_pp(wild, SHAPE, 1, x_init=x).abs().max() > 100


@pytest.mark.parametrize("name", samplers.SCHEDULES)
def test_nothing_in_the_loop_waits_for_the_device(name):
    """Tensors on `meta` have no values, so that reading one raises."""
    result = samplers.sample(samplers.schedule(name, 3), lambda x, t: x, SHAPE, device="meta")
    assert result.is_meta and result.shape == SHAPE


def test_progress_and_timesteps():
    seen, times = [], []

    def spy(x, t):
        assert t.dtype == torch.int64 and t.shape == (3,)
        times.append(t.tolist())
        return eps(x, t)

    samplers.ddpm(spy, SHAPE, 4, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert times == [[750] * 3, [500] * 3, [250] * 3, [0] * 3]


def test_float64_start_gives_a_float64_trajectory():
    x, noise = draws(25, torch.float64)
    double = samplers.ddpm(eps, SHAPE, 25, x_init=x, noise=noise)
    single = samplers.ddpm(eps, SHAPE, 25, x_init=x.float(), noise=noise.float())
    assert double.dtype == torch.float64 and single.dtype == torch.float32
    assert relative_error(single, double) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"seed must be an integer in 0..2\^64-1, but it is -1"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"first_index": -1}, "first_index must be"),
        ({"first_index": 2**63 - 2}, "first_index must be"),
        ({"x_init": torch.zeros(2, 4, 16)}, r"x_init must have shape \(3, 4, 16\) .* but it has \(2, 4, 16\)"),
        ({"noise": torch.zeros(9, 3, 4, 16)}, r"noise must have shape \(10, 3, 4, 16\) .* but it has \(9, 3, 4, 16\)"),
        ({"x_init": torch.zeros(SHAPE, dtype=torch.int64)}, "x_init must be floating point"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SamplerError, match=message):
        samplers.ddpm(eps, SHAPE, 10, **options)


@pytest.mark.parametrize("name", samplers.SCHEDULES)
@pytest.mark.parametrize("steps", [0, -3, 1001, 2.5, None])
def test_bad_number_of_steps(name, steps):
    with pytest.raises(SamplerError, match="steps must be an integer in 1..1000, but it is"):
        samplers.schedule(name, steps)


def test_bad_sampler_and_eta():
    with pytest.raises(SamplerError, match="unknown sampler 'euler'; known: ddpm, ddim, dpmpp, sde-dpmpp"):
        samplers.schedule("euler", 10)
    with pytest.raises(SamplerError, match="eta must be in 0..1"):
        samplers.ddim_schedule(10, eta=1.5)
    for eta in (-0.1, float("inf"), float("nan")):
        with pytest.raises(SamplerError, match="eta must be at least 0 and finite"):
            samplers.dpm_solver_pp_schedule(10, eta=eta)
