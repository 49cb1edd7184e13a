"""Learning to predict the noise in a latent: what ECGTwin's denoiser and DiffuSETS's U-Net share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .. import samplers
from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLING_RATE
from ..data.record import Record
from .configs import NoiseConfig
from .latents import Latents
from .loop import Draw

SAMPLES, SAMPLE_STEPS = 4, 25
"""Of the pictures drawn while training."""


def draw_timesteps(draw: Draw, config: NoiseConfig, batch: int) -> np.ndarray:
    """This process's timesteps (b,) of a batch."""
    t = draw.rng.integers(config.first_timestep, config.last_timestep + 1, batch)
    if config.focus is not None:
        first, last = config.focus
        focused = draw.rng.random(batch) < config.focus_share
        t = np.where(focused, draw.rng.integers(first, last + 1, batch), t)
    return draw.share(t)


def draw_latents(draw: Draw, latents: Latents, rows: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Clean latents of this process's records `rows`, drawn from their posteriors, and noise: (b, C, L) each."""
    shape = (batch, *latents.mean.shape[1:])
    posterior, noise = (draw.share(torch.randn(shape, generator=draw.generator)).numpy() for _ in range(2))
    return latents.means(rows) + latents.deviations(rows) * posterior, noise


def noise_backward(
    config: NoiseConfig, predict: Callable[[Tensor, Tensor], Tensor], x0: Tensor, noise: Tensor, t: Tensor
) -> dict[str, Tensor]:
    """Backward pass of the squared error of predict(x, t), summed per record and weighted; the numbers to log."""
    share = _signal_share(x0.device)[t]
    signal, deviation = share.sqrt()[:, None, None], (1 - share).sqrt()[:, None, None]
    x = signal * x0 + deviation * noise
    predicted = predict(x, t).float()
    error = (predicted - noise).square().sum((1, 2))
    loss = (_weight(config, share) * error).mean()
    numbers = {"noise_error": error.detach().mean() / x0[0].numel()}
    if config.x0_weight:
        x0_error = ((x - deviation * predicted) / signal - x0).square().sum((1, 2)).mean()
        loss = loss + config.x0_weight * x0_error
        numbers["x0_error"] = x0_error.detach()
    loss.backward()
    return {"loss": loss.detach(), **numbers}


@functools.cache
def _signal_share(device: torch.device) -> Tensor:
    return samplers.alphas_cumprod().to(device)


def _weight(config: NoiseConfig, share: Tensor) -> Tensor:
    """Weight (b,) of the noise error at signal shares (b,)."""
    ratio, gamma = share / (1 - share), config.snr_gamma
    if config.snr_weight == "min":
        return (gamma / ratio).clamp(max=1)
    if config.snr_weight == "soft":
        return gamma / (gamma + ratio)
    return torch.ones_like(share)


def sample_records(
    eps: samplers.Epsilon, shape: tuple[int, int], decoder: nn.Module, asked: Record, seed: int
) -> list[Record]:
    """SAMPLES records from latents of `shape` (C, L), on the decoder's device, under the condition of `asked`."""
    latents = samplers.sample(
        samplers.schedule(samplers.DEFAULT_SAMPLER, SAMPLE_STEPS),
        eps,
        (SAMPLES, *shape),
        seed=seed,
        device=next(decoder.parameters()).device,
    )
    return [
        Record(signal, SAMPLING_RATE, MODEL_LEADS, asked.age, asked.sex, asked.report, asked.heart_rate)
        for signal in decoder(latents).cpu().numpy()
    ]
