"""The model as a data set's worker uses it: base vectors one by one, twins by the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.record import Record
from ..generate import Condition, ECGTwin
from ..pretrained import CONFIG_FILE, find_model, weight_files
from .items import Facts

if TYPE_CHECKING:
    from .plan import Plan


class Compute(Protocol):
    """What a worker asks of a model. `facts` names all that decides its numbers."""

    facts: Facts

    def base_vector(self, record: Record) -> Tensor:
        """(width,) of a prepared record."""
        ...

    def check(self, condition: Condition) -> None:
        """Raises ConditionError for a condition that the model cannot take."""
        ...

    def signals(
        self, bases: Tensor, conditions: Sequence[Condition], first_index: int, progress: Callable[[int, int], None]
    ) -> np.ndarray:
        """float32 (B, 1024, 12) in mV of the records first_index, first_index + 1 and so on."""
        ...


class ModelCompute:
    """The plan's model on a device.

    Raises:
        CheckpointError, TextEncoderError: it cannot be loaded. BackendError: the plan's backend cannot run it.
    """

    def __init__(self, plan: Plan, device: str | None = None):
        self._model = ECGTwin.from_pretrained(plan.model, device)
        self._sampling = {
            "sampler": plan.sampler, "seed": plan.seed, "backend": plan.backend, "dtype": getattr(torch, plan.dtype)
        }  # fmt: skip
        self._steps = plan.steps
        digest = model_digest(plan.model)
        self.facts = Facts(
            plan.seed, plan.sampler, plan.steps, plan.model_name, digest, self._backend(), plan.dtype
        )

    def base_vector(self, record: Record) -> Tensor:
        return self._model.base_vector(record).cpu()

    def check(self, condition: Condition) -> None:
        self._model.tokens(condition)

    def signals(self, bases, conditions, first_index, progress):
        return self._model.signals(
            bases, conditions, first_index=first_index, steps=self._steps, progress=progress, **self._sampling
        ).signals

    def _backend(self) -> str:
        """The backend that serves the plan, with what else decides its rounding."""
        width = self._model.networks["extractor"].classfree_emb.shape[1]
        condition = Condition("sinus rhythm", 70.0, 60.0, "F")
        name = self._model.signals(torch.zeros(1, width), [condition], steps=1, **self._sampling).backend
        if name == "cpu":
            return name
        kind = self._model.device.type
        return f"{name} on {kind}" + (f", {torch.get_num_threads()} threads" if kind == "cpu" else "")


def model_digest(model: str) -> str:
    """SHA-256 of a model's configuration and weights, the first 16 hexadecimal digits."""
    folder = find_model(model)
    digest = hashlib.sha256()
    for path in [folder / CONFIG_FILE, *sorted(weight_files(folder).values())]:
        digest.update(f"{path.name}\n{_file_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def base_digest(base_vector: Tensor) -> str:
    """64 bits of BLAKE2b of a base vector, in hexadecimal."""
    content = np.ascontiguousarray(base_vector.numpy(), "<f4").tobytes()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
