"""Stage 2: training of the denoiser on pairs of one person's ECGs (arXiv 2508.02720)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.pairs import Pairs
from ..data.store import Store
from ..engine.training import training_forward
from ..errors import StoreError
from ..models.vae import Decoder
from .configs import DenoiserConfig
from .denoiser_start import Denoiser, text_columns
from .latents import Latents
from .loop import Draw
from .noise import SAMPLES, draw_latents, draw_timesteps, noise_backward, sample_records
from .whitening import Whitening


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
        network: Denoiser,
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
        self._pools = training_pairs(store, config)
        self._whitening: Whitening | None = None
        self._embeddings = store.embeddings
        if config.standardise:
            tokens = store.tokens[store.rows(test=False)]
            counts = np.bincount(tokens[tokens > 0], minlength=len(store.embeddings))
            self._whitening = Whitening.of(store.embeddings, counts)
            self._embeddings = self._whitening(store.embeddings)

    def fetch(self, draw: Draw) -> tuple[np.ndarray, ...]:
        """This process's x0, noise (b, C, L), timesteps (b,), base vectors (b, W), text, mask and patient vectors."""
        config, batch = self.config, self.config.loop.batch
        reference, target = draw.share(self._draw_pairs(draw.rng, batch)).T
        t = draw_timesteps(draw, config, batch)
        kept = draw.rng.random(self.bases.shape[1]) >= config.base_dropout
        x0, noise = draw_latents(draw, self.latents, target, batch)
        base = self.bases[reference] * kept.astype(np.float32)
        return x0, noise, t, base, *self.store.condition(target, self._embeddings)

    def step(self, draw: Draw) -> dict[str, Tensor]:
        x0, noise, t, base, text, mask, patient = map(draw.on_device, draw.batch)
        predict = functools.partial(self._forward, text_embed=text, text_mask=mask, patient=patient, base_vector=base)
        return noise_backward(self.config, predict, x0, noise, t)

    def _draw_pairs(self, rng: np.random.Generator, count: int) -> np.ndarray:
        filled = [pairs for pairs in self._pools if len(pairs)]
        if len(filled) == 1:
            return filled[0].draw(rng, count)
        real, simulated = (pairs.draw(rng, count) for pairs in self._pools)
        return np.where(rng.random((count, 1)) < self.config.real_share, real, simulated)

    def sample(self, network: Denoiser, step: int) -> Path | None:
        """Twins of one test patient under the condition of their later record, with the weights of this step."""
        if self._decoder is None or self._folder is None:
            return None
        from ..plot import plot_twins

        reference, target = self._sample_pair()
        device = next(network.parameters()).device
        text, mask, patient = (
            torch.from_numpy(part).to(device).expand(SAMPLES, *part.shape[1:])
            for part in self.store.condition([target], self._embeddings)
        )
        base = torch.from_numpy(self.bases[[reference]]).to(device).expand(SAMPLES, -1)
        twins = sample_records(
            lambda x, t: network(x, t, text, mask, patient, base),
            (network.channels, network.length),
            self._decoder,
            self.store.record(target),
            self.config.loop.seed,
        )
        path = self._folder / "samples" / f"step_{step:06d}.png"
        return plot_twins(self.store.record(reference), twins, path, title=f"Twins after {step} steps")

    def finish(self, network: Denoiser) -> None:
        """Fold the whitening into the layer that takes the statements: it then takes them as they are."""
        if self._whitening is not None:
            self._whitening.fold(network.text_projector, text_columns(network))

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
