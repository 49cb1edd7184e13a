"""The one training loop of all stages: AdamW, a schedule, mixed precision, EMA, checkpoints and exact resume.

All that is random in a step is drawn from generators keyed by (seed, step), so that a resumed run repeats the
uninterrupted one without storing a data position, and several processes draw the same batch and take their shares.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checkpoint import (
    NETWORK,
    check_settings,
    load_checkpoint,
    newest_checkpoint,
    read_json,
    read_weights,
    save_checkpoint,
    write_json,
    write_weights,
)  # fmt: skip
from .distributed import Processes
from .log import Log, Silence, read_history
from .loop_config import LoopConfig

CONFIG, SUMMARY = "config.json", "summary.json"


@dataclass
class Draw:
    """All that is random in one step, keyed by (seed, step): the same on every process.

    rng: for NumPy. generator: for torch, on the CPU; draw for the whole batch and take the `share`. batch: what the
    stage's `fetch` returned, None without one. device: where this process computes.
    """

    step: int
    rng: np.random.Generator
    generator: torch.Generator
    processes: Processes = field(default_factory=Processes)
    batch: Any = None

    @classmethod
    def of(cls, seed: int, step: int, processes: Processes) -> Draw:
        rng = np.random.default_rng((seed, step))
        return cls(step, rng, torch.Generator().manual_seed(int(rng.integers(2**62))), processes)

    @property
    def device(self) -> torch.device:
        return self.processes.device

    def share(self, rows):
        """This process's rows of an array or Tensor of the whole batch (equal parts)."""
        return self.processes.share(rows)

    def on_device(self, rows: np.ndarray | Tensor) -> Tensor:
        """An array or Tensor as a Tensor on this process's device, without waiting for the copy."""
        rows = torch.from_numpy(np.ascontiguousarray(rows)) if isinstance(rows, np.ndarray) else rows
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows


class Stage(Protocol):
    """What `fit` trains.

    name: of the stage. network: parameters that require gradients are trained. Besides `step`, a stage may have

    - fetch(draw): reads and returns the batch of a step. It runs in a background thread while the step before is
      computed; `step` finds its result in draw.batch and goes on drawing where it stopped.
    - sample(network, step) -> Path | None: draws sample twins with the current weights into a PNG file.
    - finish(network): the last touch to the trained network (averaged weights where the loop has an EMA).
    """

    name: str
    network: nn.Module

    def step(self, draw: Draw) -> dict[str, float | Tensor]:
        """The loss over this process's rows, followed by its backward(); under the loop's autocast.

        Returns numbers to log, floats or Tensors of one element that are read only where they are logged, always with
        the same names, among them "loss". The loop averages gradients and numbers over the processes.
        """
        ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: a checkpoint is saved; the message says how to go on (the first process's alone)."""


def finished(folder: Path) -> bool:
    """Whether the run in a folder is trained to its end."""
    return (folder / SUMMARY).is_file()


def started(folder: Path) -> bool:
    """Whether a run was begun in a folder."""
    return (folder / CONFIG).is_file()


def fit(
    stage: Stage,
    config: LoopConfig,
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
) -> nn.Module:
    """Train stage.network and return it in eval mode, with averaged weights where the configuration has an EMA.

    Args:
        config: with `steps`. folder: holds config.json, history.csv, TensorBoard events, the newest checkpoint and, at
            the end, network.safetensors and summary.json. A run that it holds is gone on with; of a finished one the
            network is loaded and nothing done.
        settings: what a resumed run must have in common with the first; the loop's configuration by default.

    Raises:
        CheckpointError: the folder's run has other settings (names the first) or is damaged.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        TrainingError: the loss is not finite.
    """
    processes = processes or Processes()
    processes.check_batch(config.batch)
    folder = Path(folder)
    settings = dict(settings or {"loop": asdict(config)})
    network = stage.network.to(processes.device)
    if started(folder):
        check_settings(folder / CONFIG, read_json(folder / CONFIG), settings)
    if finished(folder):
        read_weights(folder / NETWORK, network)
        return network.eval().requires_grad_(False)
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG, settings)
    processes.wait()
    return _Run(stage, network, config, folder, settings, processes).train()


class _Run:
    """The state of one call of `fit`."""

    def __init__(self, stage, network, config, folder, settings, processes):
        self.stage, self.network, self.config = stage, network, config
        self.folder, self.settings, self.processes = folder, settings, processes
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.average = copy.deepcopy(network).requires_grad_(False) if config.ema else None
        checkpoint = newest_checkpoint(folder)
        self.start = 0
        if checkpoint is not None:
            self.start = load_checkpoint(checkpoint, settings, network, self.average, self.optimiser)

    def train(self) -> nn.Module:
        config, first = self.config, self.processes.first
        self.network.train()
        saved, seconds = time.monotonic(), time.monotonic()
        log = Log(self.folder, self.stage.name, self.start, config.steps, config.batch) if first else Silence()
        with log, _stop_signals() as stopping, _prefetched(self._draw) as draws:
            for step in range(self.start, config.steps):
                numbers, stop = self._step(draws(step, step + 1 < config.steps), stopping)
                if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                    log.numbers(step, self.processes.average(numbers))
                log.step()
                if first and config.sample_every and (step + 1) % config.sample_every == 0:
                    self._sample(log, step + 1)
                if stop and step + 1 < config.steps:
                    self._save(step + 1)
                    raise Interrupted(self._stopped(step + 1) if first else "")
                if time.monotonic() - saved > config.checkpoint_seconds:
                    self._save(step + 1)
                    saved = time.monotonic()
            self._save(config.steps)
            seconds = time.monotonic() - seconds
        return self._finish(seconds)

    def _stopped(self, steps: int) -> str:
        done = f"{self.stage.name} stopped after {steps} of {self.config.steps} steps; saved in {self.folder}"
        return f"{done}: give the same command with --resume to go on"

    def _draw(self, step: int) -> Draw:
        draw = Draw.of(self.config.seed, step, self.processes)
        fetch = getattr(self.stage, "fetch", None)
        draw.batch = fetch(draw) if fetch else None
        return draw

    def _step(self, draw: Draw, stopping: Callable[[], bool]) -> tuple[dict, bool]:
        config, step = self.config, draw.step
        # Dropout draws from torch's own generators: keyed too, so that a resumed run drops the same.
        torch.manual_seed(int(np.random.SeedSequence((config.seed, step, self.processes.rank)).generate_state(1)[0]))
        rate, beta1 = config.rate(step)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate, (beta1, group["betas"][1])
        self.optimiser.zero_grad(set_to_none=True)
        with arithmetic(self.processes.device, config.bfloat16):
            numbers = self.stage.step(draw)
        stop = self.processes.average_gradients(self.parameters, stopping())
        if config.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
            numbers = {**numbers, "gradient_norm": norm}
        self.optimiser.step()
        if self.average is not None:
            self._update_average(step)
        return {**numbers, "learning_rate": rate}, stop

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.config.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for mean, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(current)

    def _sample(self, log: Log, step: int) -> None:
        sample = getattr(self.stage, "sample", None)
        if sample is None:
            return
        network = (self.average or self.network).eval()
        with torch.no_grad(), arithmetic(self.processes.device, False):
            path = sample(network, step)
        self.network.train()
        if path is not None:
            log.picture(step, path)

    def _save(self, step: int) -> None:
        if self.processes.first:
            save_checkpoint(self.folder, step, self.settings, self.network, self.average, self.optimiser)

    def _finish(self, seconds: float) -> nn.Module:
        """Hand out what is trained; the first process writes it."""
        trained = (self.average or self.network).eval().requires_grad_(False)
        if hasattr(self.stage, "finish"):
            self.stage.finish(trained)
        if self.processes.first:
            write_weights(self.folder / NETWORK, trained)
            done = self.config.steps - self.start
            summary = {
                "stage": self.stage.name,
                "steps": self.config.steps,
                "final": read_history(self.folder)[-1],
                "parameters": sum(p.numel() for p in trained.parameters()),
                "device": str(self.processes.device),
                "processes": self.processes.world,
                # Of the last uninterrupted part of the run.
                "seconds": round(seconds, 3),
                "records_per_second": round(done * self.config.batch / max(seconds, 1e-9), 3),
            }
            write_json(self.folder / SUMMARY, summary)
        self.processes.wait()
        if not self.processes.first:
            read_weights(self.folder / NETWORK, trained)
        return trained


@contextmanager
def arithmetic(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """How networks compute in training."""
    # The CPU's flash attention is several times slower than plain products at 128 positions.
    attention: AbstractContextManager = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    # Without cache: a weight that is first cast without gradient, as gradient caching does, would lose its own.
    with attention, torch.autocast(device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
        yield


@contextmanager
def _prefetched(draw: Callable[[int], Draw]) -> Iterator[Callable[[int, bool], Draw]]:
    """A function (step, more) -> Draw that has the draw of the next step made in a background thread."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        pending: dict[int, Any] = {}

        def take(step: int, more: bool) -> Draw:
            found = pending.pop(step).result() if step in pending else draw(step)
            if more:
                pending[step + 1] = thread.submit(draw, step + 1)
            return found

        yield take


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _) -> None:
        came.set()
        # The same signal again acts as before. Not the other one: torchrun answers Ctrl-C with SIGTERM.
        signal.signal(number, former[number])

    for number in former:
        signal.signal(number, stop)
    try:
        yield came.is_set
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
