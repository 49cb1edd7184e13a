"""Samplers of the reverse diffusion, DDPM, DDIM and DPM-Solver++, as pure functions over eps(x, t).

A sampler is a `Schedule`, timesteps and one row of eight coefficients a step, and one loop that all share:

    x0     = (x - sigma * eps) * inv_alpha, clamped to [-clip, clip] where clip > 0
    x_next = k_x * x + k_x0 * x0 + k_prev * x0_prev + k_eps * eps + k_noise * noise

Noise process: beta linear from 0.00085 to 0.0120 over 1000 timesteps, epsilon prediction (arXiv 2508.02720).
Noise is given, or keyed by (seed, record index, step, element) as in `ecgtwin_fast.philox`, element being the flat
index in the record's latent: a record does not depend on the batch that it is drawn in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from .errors import ECGTwinError
from .philox import INITIAL_STEP, normal

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.0120
COEFFICIENTS = ("sigma", "inv_alpha", "clip", "k_x", "k_x0", "k_prev", "k_eps", "k_noise")

Epsilon = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


class SamplerError(ECGTwinError):
    """A sampler's name, number of steps, seed, record index, noise or initial latent does not fit."""


@dataclass(frozen=True)
class Schedule:
    """What a sampler does at each of its steps.

    Attributes:
        name: of the sampler. timesteps: int64 (steps,), in the order performed.
        coefficients: float32 (steps, 8), columns as in `COEFFICIENTS`; 0 where a term is unused.
    """

    name: str
    timesteps: Tensor
    coefficients: Tensor

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def uses(self, coefficient: str) -> list[bool]:
        """For each step, whether the coefficient of this name is not zero."""
        return (self.coefficients[:, COEFFICIENTS.index(coefficient)] != 0).tolist()


def alphas_cumprod() -> Tensor:
    """Share of signal variance left at each timestep, float32 (1000,), with the published system's rounding.

    That is the rounding of torch.linspace in fp32 on a CPU with fused multiply-add, counting from both ends; spelled
    out, because torch.linspace itself depends on the CPU.
    """
    start, end = torch.tensor([BETA_START, BETA_END])
    stride = ((end - start) / (TRAIN_STEPS - 1)).double()
    up = torch.arange(TRAIN_STEPS // 2) * stride + start.double()
    down = end.double() - torch.arange(TRAIN_STEPS // 2).flip(0) * stride
    return torch.cumprod((1 - torch.cat([up, down]).float()).double(), dim=0).float()


def _sqrt(x: Tensor) -> Tensor:
    """Correctly rounded square root of fp32 numbers, which PyTorch's own is not on every CPU."""
    return x.double().sqrt().float()


def check_steps(steps: int) -> None:
    """Raises SamplerError unless `steps` is an integer in 1..1000."""
    if not isinstance(steps, Integral) or not 1 <= steps <= TRAIN_STEPS:
        raise SamplerError(f"steps must be an integer in 1..{TRAIN_STEPS}, but it is {steps!r}")


def _schedule(name: str, timesteps: Tensor, clip: float, **columns: Tensor) -> Schedule:
    zero = torch.zeros(len(timesteps), dtype=torch.float64)
    columns["clip"] = zero + clip
    rows = [columns.get(column, zero).double() for column in COEFFICIENTS]
    return Schedule(name, timesteps, torch.stack(rows, dim=1).float())


def _leading(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Multiples of 1000 // steps from 0, largest first; signal share at each timestep and after its step."""
    check_steps(steps)
    timesteps = torch.arange(steps).flip(0) * (TRAIN_STEPS // steps)
    share = alphas_cumprod()[timesteps]
    return timesteps, share, torch.cat([share[1:], torch.ones(1)])


def ddpm_schedule(steps: int = 1000, clip: float = 1.0) -> Schedule:
    """Ancestral sampling (Ho et al. 2020, equation 7), the published system's sampler.

    Equals diffusers' `DDPMScheduler(beta_start=0.00085, beta_end=0.012)` with its defaults: leading spacing,
    fixed-small variance, predicted x0 clipped to +-clip (0: not clipped). Computed in fp32 in its order of
    operations: at the last timesteps 1 - share cancels so much that float64 is 8e-6 away from published samples.
    """
    timesteps, share, after = _leading(steps)
    noise_share, noise_after = 1 - share, 1 - after
    ratio = share / after
    variance = noise_after / noise_share * (1 - ratio)
    return _schedule(
        "ddpm",
        timesteps,
        clip,
        sigma=_sqrt(noise_share),
        inv_alpha=1 / _sqrt(share),
        k_x=_sqrt(ratio) * noise_after / noise_share,
        k_x0=_sqrt(after) * (1 - ratio) / noise_share,
        k_noise=_sqrt(variance),
    )


def ddim_schedule(steps: int = 1000, eta: float = 0.0, clip: float = 1.0) -> Schedule:
    """Denoising diffusion implicit models (Song et al. 2021, equations 12 and 16); eta 0 draws no noise.

    Equals diffusers' `DDIMScheduler(beta_start=0.00085, beta_end=0.012)` with its defaults: leading spacing, alpha
    set to one after the last step, predicted x0 clipped to +-clip (0: not clipped), epsilon not re-derived from it.

    Raises:
        SamplerError: steps outside 1..1000, or eta outside 0..1.
    """
    if not 0 <= eta <= 1:
        raise SamplerError(f"eta must be in 0..1, but it is {eta!r}")
    timesteps, share, after = _leading(steps)
    share, after = share.double(), after.double()
    variance = eta**2 * (1 - after) / (1 - share) * (1 - share / after)
    return _schedule(
        "ddim",
        timesteps,
        clip,
        sigma=(1 - share).sqrt(),
        inv_alpha=share.rsqrt(),
        k_x0=after.sqrt(),
        k_eps=(1 - after - variance).sqrt(),
        k_noise=variance.sqrt(),
    )


def dpm_solver_pp_schedule(steps: int = 25, clip: float = 0.0, eta: float = 0.0) -> Schedule:
    """DPM-Solver++ (2M), the multistep second-order solver for predicted x0 (Lu et al. 2022, algorithm 2).

    Equals diffusers' `DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing")`:
    midpoint form, first and last step of first order, ending at zero noise, x0 not clipped (clip > 0 clips it); with
    eta 0 it draws no noise. Trailing spacing begins at timestep 999 and stays distinct up to 1000 steps, where the
    `linspace` default repeats a timestep.

    eta: how much of its noise each step draws afresh, as in k-diffusion's `sample_dpmpp_2m_sde`: 1 is
    SDE-DPM-Solver++ (2M), diffusers' `algorithm_type="sde-dpmsolver++"`, and more than 1 renews the noise faster.

    Raises:
        SamplerError: steps outside 1..1000, or eta negative or not finite.
    """
    check_steps(steps)
    if not 0 <= eta < math.inf:
        raise SamplerError(f"eta must be at least 0 and finite, but it is {eta!r}")
    # diffusers' arithmetic, whose rounding decides ties; it may yield one timestep too many.
    spaced = np.arange(TRAIN_STEPS, 0, -TRAIN_STEPS / steps)[:steps]
    timesteps = torch.from_numpy(spaced.round()).long() - 1
    share = alphas_cumprod()[timesteps].double()
    alpha, sigma = share.sqrt(), (1 - share).sqrt()
    alpha_after, sigma_after = torch.cat([alpha[1:], torch.ones(1)]), torch.cat([sigma[1:], torch.zeros(1)])
    log_snr = (alpha / sigma).log()
    advance = log_snr.diff()
    # Of the last step, which ends at infinite signal-to-noise, nothing is left but the clean latent.
    left = torch.cat([(-eta * advance).exp(), torch.ones(1)])
    weight = alpha_after * torch.cat([-torch.expm1(-(1 + eta) * advance), torch.ones(1)])
    drawn = torch.cat([(-torch.expm1(-2 * eta * advance)).sqrt(), torch.zeros(1)])
    extrapolation = torch.zeros_like(weight)
    extrapolation[1:-1] = 0.5 * advance[1:] / advance[:-1]
    return _schedule(
        "dpmpp",
        timesteps,
        clip,
        sigma=sigma,
        inv_alpha=1 / alpha,
        k_x=sigma_after / sigma * left,
        k_x0=weight * (1 + extrapolation),
        k_prev=-weight * extrapolation,
        k_noise=sigma_after * drawn,
    )


def sde_dpm_solver_pp_schedule(steps: int = 25, clip: float = 0.0, eta: float = 3.0) -> Schedule:
    """SDE-DPM-Solver++ (2M): `dpm_solver_pp_schedule` that mends with fresh noise what earlier steps did wrong.

    Denoisers take away slightly too much (Karras et al. 2022, section 4); with eta 3 twins of the bundled models vary
    among one another more nearly as real records do than with eta 1, and are their patients' as often.
    """
    return replace(dpm_solver_pp_schedule(steps, clip, eta), name="sde-dpmpp")


SCHEDULES = {
    "ddpm": ddpm_schedule,
    "ddim": ddim_schedule,
    "dpmpp": dpm_solver_pp_schedule,
    "sde-dpmpp": sde_dpm_solver_pp_schedule,
}
UNCLIPPED = ("dpmpp", "sde-dpmpp")
"""Samplers that take no model's range of clean latents, as diffusers' does by default."""
DEFAULT_SAMPLER, DEFAULT_STEPS = "sde-dpmpp", 25
"""The fewest steps as good as 1000 of DDPM: MODEL_CARD.md has the curve."""


def schedule(name: str, steps: int, clip_sample_range: float = 1.0) -> Schedule:
    """The schedule of sampler "ddpm", "ddim", "dpmpp" or "sde-dpmpp" with its defaults; the last two do not clip.

    Raises:
        SamplerError: unknown name, or steps outside 1..1000.
    """
    if name not in SCHEDULES:
        raise SamplerError(f"unknown sampler {name!r}; known: {', '.join(SCHEDULES)}")
    return SCHEDULES[name](steps) if name in UNCLIPPED else SCHEDULES[name](steps, clip=clip_sample_range)


def step(
    x: Tensor, eps: Tensor, x0_prev: Tensor | None, noise: Tensor | None, coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of any sampler: the linear form of this module's docstring, term by term from the left.

    Args:
        x, eps: (B, C, L). x0_prev: the x0 of the step before, or None. noise: standard normal, or None. The term
            of a None is left out.
        coefficients: (8,), a row of `Schedule.coefficients` on the device of x.

    Returns:
        x_next and x0, each (B, C, L).
    """
    sigma, inv_alpha, clip, k_x, k_x0, k_prev, k_eps, k_noise = coefficients.unbind()
    limit = torch.where(clip > 0, clip, torch.inf)
    x0 = ((x - sigma * eps) * inv_alpha).clamp(-limit, limit)
    x_next = k_x * x + k_x0 * x0
    if x0_prev is not None:
        x_next = x_next + k_prev * x0_prev
    x_next = x_next + k_eps * eps
    if noise is not None:
        x_next = x_next + k_noise * noise
    return x_next, x0


def check_keys(seed: int, first_index: int, batch: int) -> None:
    """Raises SamplerError unless seed is in 0..2^64-1 and all record indices are in 0..2^63-1."""
    if not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise SamplerError(f"seed must be an integer in 0..2^64-1, but it is {seed!r}")
    if not isinstance(first_index, Integral) or not 0 <= first_index <= 2**63 - batch:
        raise SamplerError(f"first_index must be an integer in 0..2^63-{batch}, but it is {first_index!r}")


def check_shape(name: str, value: Tensor | None, shape: Sequence[int], meaning: str) -> None:
    """Raises SamplerError unless `value` is None or floating point of this shape; `meaning` names its axes."""
    if value is None:
        return
    if tuple(value.shape) != tuple(shape):
        came = tuple(value.shape)
        raise SamplerError(f"{name} must have shape {tuple(shape)} = {meaning}, but it has {came}")
    if not value.is_floating_point():
        raise SamplerError(f"{name} must be floating point, but it is {value.dtype}")


def sample(
    plan: Schedule,
    eps: Epsilon,
    shape: Sequence[int],
    *,
    seed: int = 0,
    first_index: int = 0,
    group: int = 1,
    x_init: Tensor | None = None,
    noise: Tensor | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Runs a schedule from noise to latents. Nothing in the loop waits for the device.

    Args:
        plan: the schedule. eps: predicts the noise (B, C, L) in x (B, C, L) at timesteps t, int64 (B,).
        shape: (B, C, L) of the latents. seed: 0..2^64-1.
        first_index: record b of the batch has the index first_index + b in all draws. group: so many consecutive
            records share an index, the first ones first_index.
        x_init: initial latents (B, C, L); by default drawn.
        noise: (steps, B, C, L) in the order performed; by default drawn.
        device: where to sample; by default that of `x_init`, else the CPU.
        progress: called as progress(done, steps) after each step.

    Returns:
        Latents (B, C, L), float32 (float64 where `x_init` is).

    Raises:
        SamplerError: a seed, index or shape that does not fit.
    """
    batch, elements = shape[0], shape[1] * shape[2]
    check_keys(seed, first_index, batch)
    check_shape("x_init", x_init, shape, "(records, channels, length)")
    check_shape("noise", noise, (plan.steps, *shape), "(steps, records, channels, length)")
    if device is None:
        device = x_init.device if x_init is not None else torch.device("cpu")
    dtype = torch.float64 if x_init is not None and x_init.dtype == torch.float64 else torch.float32
    records = first_index + torch.arange(batch, dtype=torch.int64, device=device) // group

    def draw(index: int) -> Tensor:
        return normal(seed, records, index, elements).view(tuple(shape)).to(dtype)

    coefficients = plan.coefficients.to(device)
    timesteps = plan.timesteps.to(device)[:, None].expand(-1, batch)
    noisy, extrapolates = plan.uses("k_noise"), plan.uses("k_prev")
    given = None if noise is None else noise.to(device, dtype)
    x = draw(INITIAL_STEP) if x_init is None else x_init.to(device, dtype)
    x0 = None
    for i in range(plan.steps):
        predicted = eps(x, timesteps[i]).to(dtype)
        z = None if not noisy[i] else draw(i) if given is None else given[i]
        x, x0 = step(x, predicted, x0 if extrapolates[i] else None, z, coefficients[i])
        if progress is not None:
            progress(i + 1, plan.steps)
    return x


def ddpm(eps: Epsilon, shape: Sequence[int], steps: int = 1000, *, clip: float = 1.0, **options) -> Tensor:
    """`sample` under `ddpm_schedule`; `options` are the keyword arguments of `sample`."""
    return sample(ddpm_schedule(steps, clip), eps, shape, **options)


def ddim(
    eps: Epsilon, shape: Sequence[int], steps: int = 1000, *, eta: float = 0.0, clip: float = 1.0, **options
) -> Tensor:
    """`sample` under `ddim_schedule`; `options` are the keyword arguments of `sample`."""
    return sample(ddim_schedule(steps, eta, clip), eps, shape, **options)


def dpm_solver_pp(
    eps: Epsilon, shape: Sequence[int], steps: int = 25, *, clip: float = 0.0, **options
) -> Tensor:
    """`sample` under `dpm_solver_pp_schedule`; `options` are the keyword arguments of `sample`."""
    return sample(dpm_solver_pp_schedule(steps, clip), eps, shape, **options)
