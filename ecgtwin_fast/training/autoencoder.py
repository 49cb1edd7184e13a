"""Training of the VAE that ECGTwin and DiffuSETS share (spec: arXiv 2501.05932, section on the latent space)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..data.store import Store
from ..engine.training import training_forward
from ..models.vae import LATENT_SCALE, Decoder, Encoder
from .augment import lead_mixtures, shifted
from .configs import AutoencoderConfig
from .loop import Draw

LATENT_STD = 1.0
"""Standard deviation of the scaled latents after `standardise`; smaller ones waste the noisier timesteps."""
STANDARD_RECORDS = 4096
"""At most so many records tell `standardise` mean and deviation."""


class Autoencoder(nn.Module):
    """Encoder and decoder under the names of the published file."""

    def __init__(self, encoder: Encoder, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class AutoencoderStage:
    """Squared error in mV^2 summed per record + KL, the KL's weight ramped from 0.1 to 1.

    Trains on the store's records outside the test fold. config.loop must have its steps.
    """

    name = "autoencoder"

    def __init__(self, network: Autoencoder, store: Store, config: AutoencoderConfig):
        self.network, self.store, self.config = network, store, config
        self._encode = training_forward(network.encoder, config.loop.backend)
        self._decode = training_forward(network.decoder, config.loop.backend)
        self._rows = store.rows(test=False)
        # Variants of real records are many, smooth, and targets; recordings themselves are not.
        real = store.real[self._rows]
        recordings = real & ~store.target[self._rows]
        first = recordings if recordings.any() else real
        self._pools = [self._rows] if config.real_share is None else [self._rows[first], self._rows[~first]]
        self._ramp = config.kl_ramp_steps or config.loop.steps_of(config.kl_ramp_epochs, len(self._rows))

    def fetch(self, draw: Draw) -> tuple[np.ndarray, Tensor]:
        """This process's signals (b, 1024, 12) and the posterior's noise (b, latent, 128)."""
        batch = self.config.loop.batch
        index = draw_rows(self._pools, self.config.real_share, batch, draw.rng)
        signal = self.store.signals(draw.share(index))
        if self.config.scale_range is not None:
            signal *= draw.share(draw.rng.uniform(*self.config.scale_range, (batch, 1, 1)).astype(np.float32))
        if self.config.lead_mix:
            signal = signal @ draw.share(lead_mixtures(draw.rng, batch, self.config.lead_mix))
        if self.config.shift:
            signal = shifted(signal, draw.share(draw.rng.integers(signal.shape[1], size=batch)))
        latent = self.network.decoder[0].in_channels
        noise = torch.randn(batch, latent, signal.shape[1] // 8, generator=draw.generator)
        return signal, draw.share(noise)

    def step(self, draw: Draw) -> dict[str, Tensor]:
        signal, noise = map(draw.on_device, draw.batch)
        z, mean, log_variance = self._encode(signal, noise)
        error = (self._decode(z).float() - signal).square().sum(1)
        if self.config.lead_balance is not None:
            error = error * balance(signal, self.config.lead_balance)
        error = error.sum(1).mean()
        kl = kl_divergence(mean.float(), log_variance.float())
        loss = error + (0.1 + 0.9 * min(1.0, draw.step / self._ramp)) * kl
        loss.backward()
        return {"loss": loss.detach(), "squared_error": error.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def finish(self, network: Autoencoder) -> None:
        """Standardise the latents, where the configuration says so."""
        if not self.config.standardise:
            return
        device = next(network.parameters()).device
        rows = self._rows[:: -(-len(self._rows) // STANDARD_RECORDS)]
        means = []
        for part in np.array_split(rows, -(-len(rows) // 64)):
            signal = torch.from_numpy(self.store.signals(part)).to(device)
            means.append(network.encoder(signal, torch.zeros((), device=device))[1] * LATENT_SCALE)
        standardise(network.encoder, network.decoder, torch.cat(means))


def balance(signal: Tensor, variance: float) -> Tensor:
    """Weights (B, leads) of the leads of a signal (B, L, leads): 1 for a flat one, 1/2 for one of that variance."""
    return variance / (variance + signal.var(1, correction=0))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL to N(0, 1) of (B, C, L), summed over channels, meaned over the rest."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def draw_rows(
    pools: Sequence[np.ndarray], first_share: float | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` indices of one pool, or of two, each from the first with probability `first_share`; an empty pool yields
    to the other."""
    filled = [pool for pool in pools if len(pool)]
    if len(filled) == 1:
        return rng.choice(filled[0], count)
    first = rng.random(count) < first_share
    return np.where(first, rng.choice(pools[0], count), rng.choice(pools[1], count))


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
