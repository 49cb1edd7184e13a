"""Hyper-parameters of the training loop, and the schedules that they describe."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..engine.training import BACKENDS
from ..errors import ECGTwinError


@dataclass(frozen=True)
class LoopConfig:
    """Hyper-parameters of a stage's optimisation.

    steps: optimiser steps; or epochs: passes over the stage's records or pairs, turned into steps where steps is None.
    batch: records (or pairs) a step, over all processes. learning_rate: peak. final_learning_rate: at the end.
    schedule: "cosine", decay from the peak after `warmup` linear steps, or "one-cycle", up from a 25th of the peak in
    30 % of the steps and down again, AdamW's beta1 from 0.95 to 0.85 and back (Smith and Topin 2018, torch's defaults).
    weight_decay: AdamW's. clip: limit of the gradient norm, 0 for none. ema: decay of the averaged weights that are
    returned, 0 for none. bfloat16: autocast. backend: of the forward pass, one that engine.training.training_forward
    takes. seed: of everything drawn. checkpoint_seconds: time between checkpoints.
    log_every, sample_every: steps between rows of history.csv and between pictures of sample twins (0: none).
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 256
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    schedule: str = "cosine"
    warmup: int = 0
    weight_decay: float = 1e-2
    clip: float = 0.0
    ema: float = 0.0
    bfloat16: bool = True
    backend: str = "auto"
    seed: int = 0
    checkpoint_seconds: float = 300.0
    log_every: int = 1
    sample_every: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ECGTwinError("loop.steps and loop.epochs are both missing: give one")
        if self.schedule not in ("cosine", "one-cycle"):
            raise ECGTwinError(f"loop.schedule is {self.schedule!r}, expected 'cosine' or 'one-cycle'")
        for name in ("steps", "epochs", "batch", "learning_rate", "log_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ECGTwinError(f"loop.{name} is {value}, expected more than 0")
        for name in ("warmup", "weight_decay", "clip", "seed", "checkpoint_seconds", "sample_every"):
            if getattr(self, name) < 0:
                raise ECGTwinError(f"loop.{name} is {getattr(self, name)}, expected 0 or more")
        if self.backend not in BACKENDS:
            raise ECGTwinError(f"loop.backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if not 0 <= self.ema < 1:
            raise ECGTwinError(f"loop.ema is {self.ema}, expected 0 to below 1")

    def steps_of(self, epochs: float, count: int) -> int:
        """Steps of so many passes over `count` records, at least 1."""
        return max(1, math.ceil(epochs * count / self.batch))

    def with_steps(self, count: int) -> LoopConfig:
        """With `steps` set, from epochs over `count` records where they were not given."""
        return self if self.steps is not None else replace(self, steps=self.steps_of(self.epochs, count))

    def rate(self, step: int) -> tuple[float, float]:
        """Learning rate and AdamW's beta1 at a step."""
        if self.schedule == "one-cycle":
            return self._one_cycle(step)
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup, 0.9
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return _cosine(self.learning_rate, self.final_learning_rate, progress), 0.9

    def _one_cycle(self, step: int) -> tuple[float, float]:
        top, last = 0.3 * self.steps - 1, self.steps - 1
        if step <= top:
            progress = step / top if top > 0 else 1.0
            return _cosine(self.learning_rate / 25, self.learning_rate, progress), _cosine(0.95, 0.85, progress)
        progress = min(1.0, (step - top) / (last - top))
        return _cosine(self.learning_rate, self.final_learning_rate, progress), _cosine(0.85, 0.95, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
