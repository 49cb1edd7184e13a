"""What the models share: a loaded model directory, conditions, and batch after batch of generated records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from .data.condition import patient_vector, split_report
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLING_RATE
from .data.record import Record
from .data.text import TextEncoder, text_encoder
from .device import usable_device
from .errors import ConditionError, ECGTwinError
from .pretrained import MODEL_TYPES, ModelConfig, find_model, read_model, write_model
from .samplers import Progress


@dataclass(frozen=True)
class Condition:
    """What a twin's ECG shall show: report (statements joined by "|"), heart_rate in bpm (20..300), age in years
    (0..120), sex "F" or "M". Raises ConditionError for a missing value or one outside its range."""

    report: str
    heart_rate: float
    age: float
    sex: str

    def __post_init__(self) -> None:
        split_report(self.report)
        self.patient_vector()

    def patient_vector(self) -> np.ndarray:
        """float32 (3,), as the networks take it."""
        return patient_vector(self.heart_rate, self.age, self.sex)

    @classmethod
    def from_reference(
        cls,
        reference: Record,
        report: str,
        heart_rate: float | None = None,
        age: float | None = None,
        sex: str | None = None,
    ) -> Condition:
        """The reference's heart rate, age and sex stand in where None is given."""
        given = {"heart_rate": heart_rate, "age": age, "sex": sex}
        values = {name: getattr(reference, name) if value is None else value for name, value in given.items()}
        missing = [name.replace("_", " ") for name, value in values.items() if value is None]
        if missing:
            raise ConditionError(f"{reference.name} states no {', '.join(missing)}: give them")
        return cls(report, **values)


class Signals(NamedTuple):
    """Signals (B, 1024, 12), float32 on the CPU, in mV, and the backend that sampled them."""

    signals: np.ndarray
    backend: str


@dataclass(frozen=True)
class Generation:
    """One run of a model's `sample`: its records, all that repeats it, the backend that sampled it, and its time."""

    records: list[Record]
    condition: Condition
    model: str
    sampler: str
    steps: int
    seed: int
    first_index: int
    backend: str
    dtype: torch.dtype
    device: str
    seconds: float


class Generator:
    """A pretrained model: its networks by role on one device, and its text encoder.

    Generated ECGs are synthetic and not for diagnosis.

    Args:
        config: sizes and text encoder. networks: those of the config's model type, by role. name: what records call
            the model. card: text of its model card. device: for all networks; None takes CUDA where torch has it,
            else the CPU.
    """

    model_type: ClassVar[str]
    """A key of `pretrained.MODEL_TYPES`."""

    def __init__(
        self,
        config: ModelConfig,
        networks: Mapping[str, nn.Module],
        name: str = "model",
        card: str = "",
        device: str | torch.device | None = None,
    ):
        self.config, self.name, self.card = config, name, card
        self.device = usable_device(device)
        self.networks = {role: network.to(self.device).eval() for role, network in networks.items()}

    @classmethod
    def _load(cls, model: str | Path, device: str | torch.device | None) -> Self:
        config, networks, card = read_model(find_model(model), cls.model_type)
        return cls(config, networks, str(model), card, device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a model directory that `from_pretrained` reads. dtype: float type to store, float32 if None."""
        states = {role: network.state_dict() for role, network in self.networks.items()}
        write_model(folder, self.config, states, self.card, dtype)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Made on first use: other encoders than 'hash' load weights of their own."""
        return text_encoder(self.config.text_encoder, self.config.text_width)

    @cached_property
    def _embedded(self) -> Callable[[str], Tensor]:
        """A report's embedding on the CPU; the last reports' are kept."""
        return lru_cache(maxsize=4096)(self._embed)

    def _embed(self, report: str) -> Tensor:
        raise NotImplementedError

    def _in_batches(
        self,
        make: Callable[..., Signals],
        condition: Condition,
        *,
        count: int,
        batch_size: int,
        steps: int,
        first_index: int,
        progress: Progress | None,
        **options,
    ) -> Generation:
        """`count` records under one condition.

        make: make(size, first_index=..., progress=..., steps=..., **options) gives the signals of a batch; options
        are sampler, seed, backend and dtype.
        """
        _at_least_one("count", count)
        _at_least_one("batch_size", batch_size)
        total = steps * -(-count // batch_size)
        signals = []
        began = time.perf_counter()
        for batch, start in enumerate(range(0, count, batch_size)):
            made = make(
                min(batch_size, count - start),
                steps=steps,
                first_index=first_index + start,
                progress=progress and (lambda done, _, before=batch * steps: progress(before + done, total)),
                **options,
            )
            signals.append(made.signals)
        seconds = time.perf_counter() - began
        run = f"{MODEL_TYPES[self.model_type].title} {self.name} seed {options['seed']}"
        records = [
            Record(
                signal, SAMPLING_RATE, MODEL_LEADS, condition.age, condition.sex, condition.report,
                condition.heart_rate, f"{run} index {index}",
            )
            for index, signal in enumerate(np.concatenate(signals), start=first_index)
        ]  # fmt: skip
        return Generation(
            records, condition, self.name, options["sampler"], steps, options["seed"], first_index, made.backend,
            options["dtype"], str(self.device), seconds,
        )  # fmt: skip


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ECGTwinError(f"{name} is {value}, expected at least 1")
