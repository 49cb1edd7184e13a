"""A multi-label ECG classifier, small enough to train in minutes: a one-dimensional residual network."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

BATCH = 64
STEPS = (300, 3000)
"""Fewest and most; in between EPOCHS passes over the records."""
EPOCHS = 15
ADAPTION_STEPS = 20
_ADAPTION_RATE = 3e-4
_WIDTHS = (24, 32, 64, 96)
_LARGEST_RATE = 4e-3
_MOST_SHIFT = 100
"""Samples by which a record is rotated in training."""


class _Block(nn.Module):
    """Two convolutions and a shortcut; halves the length."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv1d(before, after, 7, stride=2, padding=3), nn.BatchNorm1d(after), nn.ReLU(),
            nn.Conv1d(after, after, 7, padding=3), nn.BatchNorm1d(after),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.AvgPool1d(2, ceil_mode=True), nn.Conv1d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


class ResNet(nn.Module):
    """ECGs (B, 1024, 12) in mV to a logit for each of `labels` statements (B, labels)."""

    def __init__(self, labels: int, leads: int = 12):
        super().__init__()
        stem = nn.Conv1d(leads, _WIDTHS[0], 15, stride=4, padding=7)
        blocks = [_Block(*widths) for widths in zip(_WIDTHS, _WIDTHS[1:], strict=False)]
        self.body = nn.Sequential(stem, nn.BatchNorm1d(_WIDTHS[0]), nn.ReLU(), *blocks)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * _WIDTHS[-1], labels))

    def forward(self, signals: Tensor) -> Tensor:
        features = self.body(signals.transpose(1, 2))
        return self.head(torch.cat([features.mean(-1), features.amax(-1)], dim=1))


class Classifier:
    """Trained on signals (n, 1024, 12) in mV and labels (n, statements) bool; the same seed gives the same one.

    steps: fewest and most (STEPS if None). what: the progress bar's label.
    """

    def __init__(
        self,
        signals: np.ndarray,
        labels: np.ndarray,
        device: torch.device | str = "cpu",
        seed: int = 0,
        steps: tuple[int, int] | None = None,
        what: str = "classifier",
    ):
        self._device = torch.device(device)
        rng = np.random.default_rng(seed)
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._network = ResNet(labels.shape[1]).to(self._device)
            total = int(np.clip(EPOCHS * len(signals) / BATCH, *(steps or STEPS)))
            optimiser = torch.optim.AdamW(self._network.parameters(), lr=1e-3, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LARGEST_RATE, total_steps=total)
            self._network.train()
            for _ in tqdm(range(total), desc=what, unit="step", mininterval=1):
                rows = rng.choice(len(signals), size=min(BATCH, len(signals)), replace=False)
                self._descend(_varied(signals[rows], rng), labels[rows], optimiser)
                schedule.step()
        self._network.eval()

    def adapted(
        self,
        signals: np.ndarray,
        labels: np.ndarray,
        lessons: np.ndarray,
        lesson_labels: np.ndarray,
        seed: int = 0,
    ) -> Classifier:
        """A copy trained a little further on these few records among the earlier ones; this one stays as it is.

        A mini-batch holds all of the few (n, 1024, 12) and fills up with lessons (m, 1024, 12), so that nothing is
        forgotten, and copies adapted to different patients stay comparable.
        """
        copy = deepcopy(self)
        rng = np.random.default_rng(seed)
        # In eval mode: the normalisation of many patients' records stays, and nothing is dropped.
        optimiser = torch.optim.AdamW(copy._network.parameters(), lr=_ADAPTION_RATE)
        for _ in range(ADAPTION_STEPS):
            rows = rng.integers(len(lessons), size=max(0, BATCH - len(signals)))
            mixed = np.concatenate([signals, lessons[rows]]), np.concatenate([labels, lesson_labels[rows]])
            copy._descend(_varied(mixed[0], rng), mixed[1], optimiser)
        return copy

    @torch.no_grad()
    def scores(self, signals: np.ndarray) -> np.ndarray:
        """Logits (n, statements)."""
        parts = [self._network(self._batch(signals[at : at + 256])) for at in range(0, len(signals), 256)]
        return torch.cat(parts).cpu().numpy()

    def _descend(self, signals: np.ndarray, labels: np.ndarray, optimiser: torch.optim.Optimizer) -> None:
        wanted = torch.from_numpy(labels.astype(np.float32)).to(self._device)
        loss = nn.functional.binary_cross_entropy_with_logits(self._network(self._batch(signals)), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def _batch(self, signals: np.ndarray) -> Tensor:
        # Baselines say nothing; a few millivolts are the most that a wave has.
        centred = signals - np.median(signals, axis=1, keepdims=True)
        return torch.from_numpy(np.clip(centred, -5, 5).astype(np.float32)).to(self._device)


def _varied(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each record begun elsewhere, somewhat larger or smaller."""
    shifts = rng.integers(-_MOST_SHIFT, _MOST_SHIFT + 1, len(signals))
    moved = np.stack([np.roll(signal, shift, axis=0) for signal, shift in zip(signals, shifts, strict=True)])
    return moved * rng.uniform(0.9, 1.1, (len(signals), 1, 1)).astype(np.float32)
