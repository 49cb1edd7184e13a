"""Stage 2: training of the denoiser on pairs of one person's ECGs (arXiv 2508.02720)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import samplers
from ..data.leads import MODEL_LEADS
from ..data.pairs import Pairs
from ..data.preprocess import SAMPLING_RATE
from ..data.record import Record
from ..data.store import Store
from ..engine.training import training_forward
from ..errors import StoreError
from ..models.ecgtwin import DiT
from ..models.vae import Decoder
from .configs import DenoiserConfig
from .latents import Latents
from .loop import Draw

SAMPLE_TWINS, SAMPLE_STEPS = 4, 25


class DenoiserStage:
    """Squared error of the noise summed per record: the target of a pair under its condition, and its reference's base.

    Args:
        latents: of the store's records. bases: (N, base_width) base vectors. decoder: for sample twins, which go to
            samples/step_XXXXXX.png in `folder`; without these two none are drawn. config.loop must have its steps.

    Raises:
        StoreError: there are no pairs outside the test fold.
    """

    name = "denoiser"

    def __init__(
        self,
        network: DiT,
        store: Store,
        latents: Latents,
        bases: np.ndarray,
        config: DenoiserConfig,
        decoder: Decoder | None = None,
        folder: Path | None = None,
    ):
        self.network, self.store, self.latents, self.bases, self.config = network, store, latents, bases, config
        self._decoder, self._folder = decoder, folder
        self._forward = training_forward(network, config.loop.backend)
        self._signal_share = samplers.alphas_cumprod()
        self._pools = training_pairs(store, config)

    def fetch(self, draw: Draw) -> tuple[np.ndarray, ...]:
        """This process's x0, noise (b, C, L), timesteps (b,), base vectors (b, W), text, mask and patient vectors."""
        config, batch = self.config, self.config.loop.batch
        reference, target = draw.share(self._draw_pairs(draw.rng, batch)).T
        t = draw.rng.integers(config.first_timestep, config.last_timestep + 1, batch)
        if config.focus is not None:
            first, last = config.focus
            focused = draw.rng.random(batch) < config.focus_share
            t = np.where(focused, draw.rng.integers(first, last + 1, batch), t)
        kept = draw.rng.random(self.bases.shape[1]) >= config.base_dropout
        shape = (batch, *self.latents.mean.shape[1:])
        posterior, noise = (draw.share(torch.randn(shape, generator=draw.generator)).numpy() for _ in range(2))
        x0 = self.latents.means(target) + self.latents.deviations(target) * posterior
        base = self.bases[reference] * kept.astype(np.float32)
        return x0, noise, draw.share(t), base, *self.store.condition(target)

    def step(self, draw: Draw) -> dict[str, Tensor]:
        x0, noise, t, base, text, mask, patient = map(draw.on_device, draw.batch)
        share = self._signal_share.to(draw.device)[t]
        signal, deviation = share.sqrt()[:, None, None], (1 - share).sqrt()[:, None, None]
        x = signal * x0 + deviation * noise
        predicted = self._forward(x, t, text, mask, patient, base).float()
        error = (predicted - noise).square().sum((1, 2))
        loss = (self._weight(share) * error).mean()
        numbers = {"noise_error": error.detach().mean() / x0[0].numel()}
        if self.config.x0_weight:
            x0_error = ((x - deviation * predicted) / signal - x0).square().sum((1, 2)).mean()
            loss = loss + self.config.x0_weight * x0_error
            numbers["x0_error"] = x0_error.detach()
        loss.backward()
        return {"loss": loss.detach(), **numbers}

    def _weight(self, share: Tensor) -> Tensor:
        """Weight (b,) of the noise error at signal shares (b,)."""
        ratio, gamma = share / (1 - share), self.config.snr_gamma
        if self.config.snr_weight == "min":
            return (gamma / ratio).clamp(max=1)
        if self.config.snr_weight == "soft":
            return gamma / (gamma + ratio)
        return torch.ones_like(share)

    def _draw_pairs(self, rng: np.random.Generator, count: int) -> np.ndarray:
        filled = [pairs for pairs in self._pools if len(pairs)]
        if len(filled) == 1:
            return filled[0].draw(rng, count)
        real, simulated = (pairs.draw(rng, count) for pairs in self._pools)
        return np.where(rng.random((count, 1)) < self.config.real_share, real, simulated)

    def sample(self, network: DiT, step: int) -> Path | None:
        """Twins of one test patient under the condition of their later record, with the weights of this step."""
        if self._decoder is None or self._folder is None:
            return None
        from ..plot import plot_twins

        reference, target = self._sample_pair()
        device = self.network.final_layer.weight.device
        text, mask, patient = (
            torch.from_numpy(part).to(device).expand(SAMPLE_TWINS, *part.shape[1:])
            for part in self.store.condition([target])
        )
        base = torch.from_numpy(self.bases[[reference]]).to(device).expand(SAMPLE_TWINS, -1)
        latents = samplers.sample(
            samplers.schedule("dpmpp", SAMPLE_STEPS),
            lambda x, t: network(x, t, text, mask, patient, base),
            (SAMPLE_TWINS, network.channels, network.length),
            seed=self.config.loop.seed,
            device=device,
        )
        asked = self.store.record(target)
        twins = [
            Record(signal, SAMPLING_RATE, MODEL_LEADS, asked.age, asked.sex, asked.report, asked.heart_rate)
            for signal in self._decoder(latents).cpu().numpy()
        ]
        path = self._folder / "samples" / f"step_{step:06d}.png"
        return plot_twins(self.store.record(reference), twins, path, title=f"Twins after {step} steps")

    def _sample_pair(self) -> np.ndarray:
        """The first pair of the test fold; where it has none, of the training records."""
        test = Pairs(self.store, self.store.rows(test=True))
        source = next(pairs for pairs in (test, *self._pools) if len(pairs))
        return source[np.array([0])][0]


def training_pairs(store: Store, config: DenoiserConfig) -> list[Pairs]:
    """Pairs outside the test fold: all of them, or those of real and of simulated people where they are weighted.

    Raises StoreError where there are none.
    """
    rows = store.rows(test=False)
    real = store.real[rows]
    parts = [rows] if config.real_share is None else [rows[real], rows[~real]]
    pools = [Pairs(store, part, config.per_patient, config.both_orders) for part in parts]
    if not any(map(len, pools)):
        raise StoreError(f"{store.path}: no person has two records to make a pair of outside the test fold")
    return pools


@torch.no_grad()
def identity_start(denoiser: DiT) -> None:
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
