"""Stage 1: contrastive training of the Individual Base Extractor (arXiv 2508.02720)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..data.pairs import Pairs
from ..data.store import Store
from ..engine.training import training_forward
from ..errors import ECGTwinError
from ..models.extractor import BaseExtractor
from .configs import ExtractorConfig
from .contrastive import contrastive_backward, on_device
from .latents import Latents
from .loop import Draw

TEST_PEOPLE = 2048
"""Of the test fold, whose pairs `ExtractorStage.sample` looks at, at most."""


@dataclass(frozen=True)
class MiniBatch:
    """Pairs (n, 2) of records of n different people; `dropped`: seen without their conditions."""

    pairs: np.ndarray
    dropped: bool

    def __len__(self) -> int:
        return len(self.pairs)


class ExtractorStage:
    """Two ECGs of one person against those of others: a batch in mini-batches of different people.

    As published, a batch accumulates the gradients of mini-batches whose negatives are their own; with
    config.gradient_caching, all people of the batch, then all different, are one another's negatives. A mini-batch is
    dealt whole to one process. With probability config.condition_dropout it is seen without its conditions, so that
    the class-free token learns to stand in. A batch or mini-batch larger than the number of people with pairs shrinks
    to it.

    The paper chose the epoch with the largest mean cosine of the test pairs. Here the last weights count, so that the
    test fold decides nothing; every loop.sample_every steps that cosine is shown.

    Raises ECGTwinError for a store without two people, outside the test fold, that have pairs.
    """

    name = "extractor"

    def __init__(self, network: BaseExtractor, store: Store, latents: Latents, config: ExtractorConfig):
        self.network, self.store, self.latents, self.config = network, store, latents, config
        self._pairs = Pairs(store, store.rows(test=False), config.per_patient, config.both_orders)
        if len(self._pairs.draw_people(np.random.default_rng(0), 2)) < 2:
            raise ECGTwinError(f"{store.path}: fewer than two people outside the test fold have a pair of records")

    @cached_property
    def _features(self) -> Callable[..., Tensor]:
        # Chosen when the first step asks: by then the network is on its device.
        return training_forward(self.network, self.config.loop.backend)

    def fetch(self, draw: Draw) -> list[MiniBatch]:
        return [
            MiniBatch(pairs, bool(draw.rng.random() < self.config.condition_dropout))
            for pairs in self._draw_pairs(draw.rng)
        ]

    def step(self, draw: Draw) -> dict[str, Tensor]:
        def embed(chunk: MiniBatch) -> tuple[Tensor, Tensor]:
            inputs = both_sides(self.store, self.latents, chunk.pairs, draw.device)
            return self._features(inputs[0], *((None,) * 3 if chunk.dropped else inputs[1:])).chunk(2)

        return contrastive_backward(self.network, embed, draw.batch, self.config.gradient_caching)

    def sample(self, network: BaseExtractor, step: int) -> None:
        """Show the mean cosine of test pairs, one of each person."""
        pairs = Pairs(self.store, self.store.rows(test=True)).draw_people(np.random.default_rng(0), TEST_PEOPLE)
        if len(pairs):
            cosine = test_cosine(network, self.store, self.latents, pairs)
            tqdm.write(f"extractor, step {step}: mean cosine of {len(pairs)} test pairs {cosine:.4f}")

    def _draw_pairs(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        batch, size = self.config.loop.batch, self.config.mini_batch
        if self.config.gradient_caching:
            people = self._pairs.draw_people(rng, batch)
            yield from (people[start : start + size] for start in range(0, len(people), size))
        else:
            yield from (self._pairs.draw_people(rng, min(size, batch - start)) for start in range(0, batch, size))


def both_sides(store: Store, latents: Latents, pairs: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
    """Arguments of `BaseExtractor.extract_features` for the references of pairs (n, 2), followed by their targets."""
    index = pairs.T.ravel()
    arrays = latents.means(index).swapaxes(1, 2), *store.condition(index)
    return tuple(on_device(array, device) for array in arrays)


@torch.no_grad()
def test_cosine(network: BaseExtractor, store: Store, latents: Latents, pairs: np.ndarray, batch: int = 256) -> float:
    """Mean cosine between the base vectors of both records of pairs (P, 2), each under its own condition."""
    device = network.logit_scale.device
    total = 0.0
    for start in range(0, len(pairs), batch):
        inputs = both_sides(store, latents, pairs[start : start + batch], device)
        total += float(F.cosine_similarity(*network.extract_features(*inputs).chunk(2)).sum())
    return total / len(pairs)
