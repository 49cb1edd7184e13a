"""The one training loop of all stages: AdamW, a schedule, mixed precision, EMA, checkpoints and exact resume.

A step's mini-batch and noise are drawn from generators keyed by (seed, step), so that a resumed run repeats the
uninterrupted one without storing any data position.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..errors import CheckpointError


@dataclass(frozen=True)
class LoopConfig:
    """Hyper-parameters of a stage.

    steps: optimiser steps. batch: records a step. learning_rate: peak. final_learning_rate: end of the cosine decay.
    warmup: steps of linear warm-up. weight_decay: AdamW's. clip: limit of the gradient norm. ema: decay of the
    averaged weights that are returned, 0 for none. bfloat16: autocast. seed: of everything drawn.
    checkpoint_seconds: time between checkpoints.
    """

    steps: int
    batch: int
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    warmup: int = 100
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.0
    bfloat16: bool = True
    seed: int = 0
    checkpoint_seconds: float = 60.0


Loss = Callable[[np.random.Generator, torch.Generator, int], tuple[Tensor, dict[str, float]]]


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine from the peak to the final rate."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


def fit(network: nn.Module, loss: Loss, config: LoopConfig, checkpoint: Path, label: str) -> nn.Module:
    """Train `network` and return it, with averaged weights where the configuration has an EMA.

    Args:
        network: parameters that require gradients are trained.
        loss: loss(rng, generator, step) draws a mini-batch and gives the scalar to minimise and numbers to show.
        checkpoint: file that is written every `checkpoint_seconds` and at the end; an existing one is resumed.
        label: text of the progress bar.

    Raises:
        CheckpointError: the checkpoint belongs to another configuration.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    average = copy.deepcopy(network).requires_grad_(False) if config.ema else None
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["config"] != asdict(config):
            raise CheckpointError(f"{checkpoint}: written with {state['config']}, this run has {asdict(config)}")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        if average is not None:
            average.load_state_dict(state["average"])
        start = state["step"]

    def save(step: int) -> None:
        state = {
            "config": asdict(config),
            "step": step,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": None if average is None else average.state_dict(),
        }
        write_atomic(checkpoint, lambda path: torch.save(state, path))

    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    network.train()
    saved = time.monotonic()
    progress = tqdm(total=config.steps, initial=start, desc=label, unit="step", mininterval=2)
    try:
        for step in range(start, config.steps):
            rng = np.random.default_rng((config.seed, step))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, step)
            # The CPU's flash attention is several times slower than plain products at 128 positions.
            with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
                value, shown = loss(rng, generator, step)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimiser.step()
            if average is not None:
                decay = min(config.ema, (step + 1) / (step + 10))
                with torch.no_grad():
                    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            if step % 20 == 0:
                progress.set_postfix({name: f"{number:.4g}" for name, number in shown.items()}, refresh=False)
            progress.update()
            if time.monotonic() - saved > config.checkpoint_seconds:
                save(step + 1)
                saved = time.monotonic()
        save(config.steps)
    finally:
        progress.close()
    return (average or network).eval().requires_grad_(False)
