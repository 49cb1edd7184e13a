"""Training of the ECG-text encoder that the metrics look through (arXiv 2501.05932)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.store import Store
from ..engine.training import training_forward
from ..errors import ECGTwinError
from ..models.ecg_text import ECGTextEncoder
from .configs import ClipConfig
from .contrastive import contrastive_backward, on_device, own_chunks
from .loop import Draw


@dataclass(frozen=True)
class MiniBatch:
    """Records `rows` (n,) and the seed of their dropout; signal (n, 1024, 12) and text (n, width) where the mini-batch
    is this process's."""

    rows: np.ndarray
    seed: int
    signal: np.ndarray | None = None
    text: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)


class ClipStage:
    """ECGs against the reports of a whole batch, in mini-batches by gradient caching: as published where one holds the
    batch. Batch norms see one mini-batch at a time; each is dealt whole to one process."""

    name = "clip"

    def __init__(self, network: ECGTextEncoder, store: Store, config: ClipConfig):
        self.network, self.store, self.config = network, store, config
        self._rows = store.rows(test=False)
        if len(self._rows) < 2:
            raise ECGTwinError(f"{store.path}: {len(self._rows)} records outside the test fold, expected at least 2")

    @cached_property
    def _forward(self) -> Callable:
        return training_forward(self.network, self.config.loop.backend)

    def fetch(self, draw: Draw) -> list[MiniBatch]:
        count = min(self.config.loop.batch, len(self._rows))
        rows = draw.rng.choice(self._rows, count, replace=False)
        parts = np.array_split(rows, -(-count // self.config.mini_batch))
        chunks = [MiniBatch(part, int(draw.rng.integers(2**62))) for part in parts]
        for k in own_chunks(len(chunks)):
            part = chunks[k]
            chunks[k] = MiniBatch(part.rows, part.seed, self.store.signals(part.rows), mean_text(self.store, part.rows))
        return chunks

    def step(self, draw: Draw) -> dict[str, Tensor]:
        def embed(chunk: MiniBatch) -> tuple[Tensor, Tensor]:
            # Dropout keyed by the mini-batch: the same in both passes of gradient caching and on any process.
            with torch.random.fork_rng([draw.device] if draw.device.type == "cuda" else []):
                torch.manual_seed(chunk.seed)
                return self._forward(on_device(chunk.signal, draw.device), on_device(chunk.text, draw.device))

        with averaged_statistics(self.network):
            return contrastive_backward(self.network, embed, draw.batch, gradient_caching=True)


def mean_text(store: Store, rows: np.ndarray) -> np.ndarray:
    """The mean of each report's statement embeddings, float32 (n, text_width)."""
    text, mask, _ = store.condition(rows)
    return text.sum(1) / np.maximum(mask.sum(1, keepdims=True), 1)


@contextmanager
def averaged_statistics(network: nn.Module) -> Iterator[None]:
    """Batch norms' running statistics move once for the block, by the mean over all mini-batches and processes that it
    saw, instead of once a mini-batch: so they do not depend on the passes, the order or the number of processes."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    saved = [(norm.momentum, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    steps = [int(norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative mean
    yield
    for norm, (momentum, mean, variance), before in zip(norms, saved, steps, strict=True):
        count = norm.num_batches_tracked.to(mean.dtype)
        seen = torch.cat([count[None], count * norm.running_mean, count * norm.running_var])
        if dist.is_initialized():
            dist.all_reduce(seen)
        norm.momentum = momentum
        share = momentum * (seen[0] > 0)  # the first block's unused norm saw nothing
        new_mean, new_variance = (seen[1:] / seen[0].clamp_min(1)).chunk(2)
        norm.running_mean, norm.running_var = mean.lerp(new_mean, share), variance.lerp(new_variance, share)
        norm.num_batches_tracked.fill_(before + 1)
