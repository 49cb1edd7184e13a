"""Stage 2: training of the denoiser on pairs of one person's ECGs (arXiv 2508.02720)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..models.ecgtwin import DiT
from ..samplers import alphas_cumprod
from .autoencoder import draw_rows
from .cohort import Cohort
from .extractor import condition
from .loop import LoopConfig, fit

FIRST_TIMESTEP, LAST_TIMESTEP = 1, 997
BASE_DROPOUT = 0.15
FOCUS_SHARE = 0.8


@torch.no_grad()
def initialise(denoiser: DiT) -> None:
    """Every block starts as the identity in its modulated branches and the output at zero (Peebles and Xie, DiT)."""
    for block in denoiser.blocks:
        nn.init.zeros_(block.adaLN_modulation[-1].weight)
        nn.init.zeros_(block.adaLN_modulation[-1].bias)
        nn.init.zeros_(block.attn2.out_proj.weight)
        nn.init.zeros_(block.attn2.out_proj.bias)
    # Positions reach the network only as the rotation of this bias: a strong one makes rhythm learnable much sooner.
    nn.init.normal_(denoiser.x_embedder.bias)
    nn.init.zeros_(denoiser.final_layer.weight)
    nn.init.zeros_(denoiser.final_layer.bias)


def train_denoiser(
    denoiser: DiT,
    latents: tuple[Tensor, Tensor],
    bases: Tensor,
    cohort: Cohort,
    config: LoopConfig,
    checkpoint: Path,
    real_share: float = 0.35,
    snr_gamma: float = 0.0,
    focus: tuple[int, int] | None = None,
) -> DiT:
    """Squared error of the noise summed per record; target of a pair under its condition, base vector of its reference.

    Args:
        latents: scaled posterior means and standard deviations (N, C, L). bases: base vectors (N, base_width).
        real_share: share of a mini-batch's pairs that are real people, where the cohort has any.
        snr_gamma: soft min-SNR weight gamma / (gamma + SNR(t)) of a record's error (after Hang et al. 2023); it keeps
            the late, nearly clean timesteps from outweighing those where the rhythm is decided. 0: as published, none.
        focus: first and last of the timesteps that FOCUS_SHARE of the records are drawn from; None: as published, none.

    t is uniform in 1..997; a random 15 % of the base vector's dimensions are zeroed, the same for the whole mini-batch.
    """
    pairs = cohort.pairs
    pools = [np.flatnonzero(cohort.real[pairs[:, 0]]), np.flatnonzero(~cohort.real[pairs[:, 0]])]
    signal_share = alphas_cumprod()
    mean, deviation = latents

    def loss(rng: np.random.Generator, generator: torch.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        reference, target = pairs[draw_rows(pools, real_share, config.batch, rng)].T
        x0 = mean[target] + deviation[target] * torch.randn(mean[target].shape, generator=generator)
        epsilon = torch.randn(x0.shape, generator=generator)
        t = rng.integers(FIRST_TIMESTEP, LAST_TIMESTEP + 1, config.batch)
        if focus is not None:
            t = np.where(rng.random(config.batch) < FOCUS_SHARE, rng.integers(focus[0], focus[1] + 1, config.batch), t)
        t = torch.from_numpy(t)
        share = signal_share[t][:, None, None]
        kept = torch.from_numpy((rng.random(bases.shape[1]) >= BASE_DROPOUT).astype(np.float32))
        text, mask, patient = condition(cohort, target)
        predicted = denoiser(
            share.sqrt() * x0 + (1 - share).sqrt() * epsilon, t, text, mask, patient, bases[reference] * kept
        )
        error = (predicted.float() - epsilon).square().sum((1, 2))
        weight = 1.0 if snr_gamma == 0 else snr_gamma / (snr_gamma + share / (1 - share)).flatten()
        return (weight * error).mean(), {"noise error": error.mean().item() / x0[0].numel()}

    return fit(denoiser, loss, config, checkpoint, "denoiser")
