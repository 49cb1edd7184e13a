"""Condition embeddings with their differences made equally large, for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

RIDGE = 1e-3
"""Share of the total variance that is added to that of every direction, so that rare ones are not blown up."""
_NOTHING = 1e-9
"""Directions of a smaller share of the variance are left out."""


@dataclass(frozen=True)
class Whitening:
    """The affine map x -> (x - mean) @ matrix.T of embeddings (n, width); mean (width,), matrix (width, width).

    Embeddings of a text encoder are unit vectors of which "anterior infarction" and "inferior infarction" share nearly
    all: a network learns slowly what distinguishes them. Whitened, it learns it as fast as the rest. A linear layer
    that was trained on whitened embeddings takes them as they are after `fold`.
    """

    mean: np.ndarray
    matrix: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, weights: np.ndarray) -> Whitening:
        """Of vectors (n, width) that come with frequencies proportional to weights (n,)."""
        share = weights / weights.sum()
        vectors = vectors.astype(np.float64)
        mean = share @ vectors
        _, scales, directions = np.linalg.svd((vectors - mean) * np.sqrt(share)[:, None], full_matrices=False)
        variance = np.square(scales)
        total = variance.sum()
        kept = variance > _NOTHING * total
        directions = directions[kept]
        return cls(mean, (directions.T / np.sqrt(variance[kept] + RIDGE * total)) @ directions)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self.mean) @ self.matrix.T).astype(np.float32)

    @torch.no_grad()
    def fold(self, linear: nn.Linear, columns: slice = slice(None)) -> None:
        """Let a layer, of whose input these columns were whitened embeddings, take the embeddings themselves."""
        matrix, mean = (torch.from_numpy(part).to(linear.weight.device) for part in (self.matrix, self.mean))
        weight = linear.weight[:, columns].double() @ matrix
        linear.bias -= (weight @ mean).float()
        linear.weight[:, columns] = weight.float()
