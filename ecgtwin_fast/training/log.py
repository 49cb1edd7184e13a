"""What a training run shows and records: progress bar, history.csv, TensorBoard."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from ..errors import ECGTwinError
from .checkpoint import write_atomic

HISTORY = "history.csv"


class TrainingError(ECGTwinError):
    """Training cannot go on: the loss is not a number, or a stage's numbers change their names."""


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's history.csv, oldest first."""
    with open(folder / HISTORY, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Log:
    """Numbers of a run that goes on at step `start`: rows of history.csv from there on are dropped.

    batch: records a step. Used as a context manager.
    """

    def __init__(self, folder: Path, label: str, start: int, steps: int, batch: int):
        self._file = self._columns = None
        self._path = folder / HISTORY
        self._continue(start)
        self._board = _tensorboard(folder, start)
        self._bar = tqdm(total=steps, initial=start, desc=label, unit="step", mininterval=1)
        self._start, self._batch, self._began = start, batch, time.monotonic()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def speed(self, steps_done: int) -> float:
        """Records a second since this run began or went on."""
        return (steps_done - self._start) * self._batch / max(time.monotonic() - self._began, 1e-9)

    def step(self) -> None:
        """One more step is done."""
        self._bar.update()

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of step `step` (0-based); TrainingError where one is not finite."""
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self._path}: {name} is {value} at step {step + 1}; lower loop.learning_rate or set loop.clip"
                )
        speed = self.speed(step + 1)
        self._row(step + 1, numbers)
        if self._board is not None:
            for name, value in {**numbers, "records_per_second": speed}.items():
                self._board.add_scalar(name, value, step + 1)
        self._bar.set_postfix_str(f"loss {numbers['loss']:.4g}, {speed:.4g} records/s", refresh=False)

    def picture(self, step: int, path: Path) -> None:
        """Show a PNG file in TensorBoard."""
        if self._board is not None:
            from matplotlib.image import imread

            self._board.add_image("twins", imread(path)[..., :3], step, dataformats="HWC")

    def _continue(self, start: int) -> None:
        """Drop the rows of steps that will be done again."""
        if not self._path.is_file():
            return
        header, *rows = self._path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        kept = [row for row in rows if row.endswith("\n") and int(row.split(",", 1)[0]) <= start]
        if kept:
            self._columns = header.strip().split(",")
            write_atomic(self._path, lambda path: path.write_text("".join([header, *kept]), encoding="utf-8"))
        else:
            self._path.unlink()

    def _row(self, step: int, numbers: Mapping[str, float]) -> None:
        columns = ["step", *numbers]
        if self._columns is not None and columns != self._columns:
            raise TrainingError(f"{self._path}: has the columns {self._columns}, step {step} gives {columns}")
        if self._file is None:
            self._file = open(self._path, "a", encoding="utf-8")
        if self._columns is None:
            self._columns = columns
            self._file.write(",".join(columns) + "\n")
        self._file.write(",".join(map(repr, [step, *numbers.values()])) + "\n")
        self._file.flush()


class Silence:
    """The log of the processes that write nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_) -> None: ...

    def step(self) -> None: ...

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None: ...


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(f"no TensorBoard (pip install 'ecgtwin-fast[train]'); numbers go to {folder / HISTORY}", file=sys.stderr)
        return None
    return SummaryWriter(folder, purge_step=start + 1 if start else None)
