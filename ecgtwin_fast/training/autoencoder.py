"""Training of the VAE that ECGTwin and DiffuSETS share (spec: arXiv 2501.05932, section on the latent space)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..models.vae import LATENT_SCALE, Decoder, Encoder
from .cohort import Cohort
from .loop import LoopConfig, fit

LATENT_STD = 1.0
"""Standard deviation of the scaled latents after `standardise`; smaller ones waste the noisier timesteps."""


class Autoencoder(nn.Module):
    """Encoder and decoder under the names of the published file."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL to N(0, 1) of (B, C, L), summed over channels, meaned over the rest."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def train_autoencoder(
    encoder: Encoder,
    decoder: Decoder,
    cohort: Cohort,
    config: LoopConfig,
    checkpoint: Path,
    real_share: float = 0.5,
    kl_ramp: int = 1000,
) -> tuple[Encoder, Decoder]:
    """Squared error in mV summed per record + KL, the KL's weight ramped from 0.1 to 1 over `kl_ramp` steps.

    `real_share` of a mini-batch are real records where the cohort has any. Every record is scaled by 0.7 to 1.4.
    """
    pools = [np.flatnonzero(cohort.real), np.flatnonzero(~cohort.real)]
    latent = decoder[0].in_channels

    def loss(rng: np.random.Generator, generator: torch.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        index = draw_rows(pools, real_share, config.batch, rng)
        size = torch.from_numpy(rng.uniform(0.7, 1.4, (config.batch, 1, 1)).astype(np.float32))
        signal = size * torch.from_numpy(cohort.signals[index].astype(np.float32))
        noise = torch.randn(config.batch, latent, signal.shape[1] // 8, generator=generator)
        z, mean, log_variance = network.encoder(signal, noise)
        error = (network.decoder(z).float() - signal).square().sum((1, 2)).mean()
        kl = kl_divergence(mean.float(), log_variance.float())
        weight = 0.1 + 0.9 * min(1.0, step / kl_ramp)
        return error + weight * kl, {"rms mV": (error.item() / signal[0].numel()) ** 0.5, "kl": kl.item()}

    network = Autoencoder(encoder, decoder)
    trained = fit(network, loss, config, checkpoint, "autoencoder")
    return trained.encoder, trained.decoder


def draw_rows(pools: list[np.ndarray], first_share: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` indices, each from the first pool with probability `first_share`; an empty pool yields to the other."""
    if len(pools[0]) == 0 or len(pools[1]) == 0:
        return rng.choice(pools[0] if len(pools[0]) else pools[1], count)
    first = rng.random(count) < first_share
    return np.where(first, rng.choice(pools[0], count), rng.choice(pools[1], count))


@torch.inference_mode()
def encode(encoder: Encoder, cohort: Cohort, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Scaled posterior means and standard deviations (N, C, L) of every record of the cohort."""
    means, deviations = [], []
    for start in tqdm(range(0, len(cohort.signals), batch), desc="encoding", unit="batch", mininterval=2):
        signal = torch.from_numpy(cohort.signals[start : start + batch].astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            _, mean, log_variance = encoder(signal, torch.zeros(()))
        means.append(mean.float() * LATENT_SCALE)
        deviations.append(torch.exp(0.5 * log_variance.float()) * LATENT_SCALE)
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def standardise(encoder: Encoder, decoder: Decoder, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Fold a scale and an offset per channel into the 1x1 convolutions on both sides of the latent, so that scaled
    latents like `latents` (N, C, L) get mean 0 and standard deviation LATENT_STD; reconstructions do not change.

    Returns (scale, offset), each (C,): new latent = scale * old + offset.
    """
    scale = LATENT_STD / latents.std((0, 2))
    offset = -scale * latents.mean((0, 2))
    shift = offset / LATENT_SCALE
    channels = latents.shape[1]
    last, first = encoder[-1], decoder[0]
    last.weight[:channels] *= scale[:, None, None]
    last.bias[:channels] = scale * last.bias[:channels] + shift
    last.bias[channels:] += 2 * scale.log()
    first.weight /= scale[:, None]
    first.bias -= first.weight[:, :, 0] @ shift
    return scale, offset
