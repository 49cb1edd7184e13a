"""Stage 1: contrastive training of the Individual Base Extractor (arXiv 2508.02720)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..models.extractor import BaseExtractor
from .cohort import Cohort
from .loop import LoopConfig, fit

CONDITION_DROPOUT = 0.15


def condition(cohort: Cohort, index: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Statement embeddings (B, T, width), mask (B, T), patient vectors (B, 3) of records; T of the longest report."""
    tokens = cohort.tokens[index]
    tokens = tokens[:, : max(1, int((tokens > 0).sum(1).max()))]
    mask = torch.from_numpy((tokens > 0).astype(np.float32))
    return torch.from_numpy(cohort.embeddings[tokens]), mask, torch.from_numpy(cohort.patient[index])


def train_extractor(
    extractor: BaseExtractor, latents: Tensor, cohort: Cohort, config: LoopConfig, checkpoint: Path
) -> BaseExtractor:
    """Symmetric cross-entropy over cosine similarities: two ECGs of one person against the mini-batch's others.

    latents: (N, C, L) of the cohort's records. A mini-batch has `config.batch` different people; with probability
    0.15 it is embedded without its condition, so that the class-free token learns to stand in.
    """
    people = _people_with_pairs(cohort)

    def loss(rng: np.random.Generator, generator: torch.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = rng.choice(len(people), min(config.batch, len(people)), replace=False)
        pairs = np.array([rng.choice(people[person], 2, replace=False) for person in chosen])
        drop = rng.random() < CONDITION_DROPOUT
        logits, _ = extractor(*(_view(index, drop) for index in pairs.T))
        target = torch.arange(len(chosen))
        value = 0.5 * (F.cross_entropy(logits.float(), target) + F.cross_entropy(logits.T.float(), target))
        hits = (logits.argmax(1) == target).float().mean()
        return value, {"loss": value.item(), "hit": hits.item()}

    def _view(index: np.ndarray, drop: bool) -> tuple:
        x = latents[index].transpose(1, 2)
        return (x, None, None, None) if drop else (x, *condition(cohort, index))

    return fit(extractor, loss, config, checkpoint, "extractor")


def _people_with_pairs(cohort: Cohort) -> list[np.ndarray]:
    starts = np.flatnonzero(np.diff(cohort.person, prepend=-1))
    groups = np.split(np.arange(len(cohort.person)), starts[1:])
    return [group for group in groups if len(group) > 1]


@torch.inference_mode()
def base_vectors(extractor: BaseExtractor, latents: Tensor, cohort: Cohort, batch: int = 256) -> Tensor:
    """Base vectors (N, hidden) of all records, each under its own condition."""
    found = []
    for start in tqdm(range(0, len(latents), batch), desc="base vectors", unit="batch", mininterval=2):
        index = np.arange(start, min(start + batch, len(latents)))
        found.append(extractor.extract_features(latents[index].transpose(1, 2), *condition(cohort, index)))
    return torch.cat(found)
