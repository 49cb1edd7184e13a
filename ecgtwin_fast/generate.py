"""Twins of a patient's ECG under another condition: the whole way from a record to generated records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .data.condition import patient_vector, split_report
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLES, SAMPLING_RATE, prepare
from .data.record import Record
from .data.text import TextEncoder, text_encoder
from .device import usable_device
from .engine.cpu_decoder import decode
from .engine.cpu_extractor import extract
from .engine.latents import generate_latents
from .errors import ConditionError, ECGTwinError
from .pretrained import ModelConfig, find_model, read_model, write_model
from .samplers import Progress, alphas_cumprod

if TYPE_CHECKING:
    from .editing import Attention, Editing


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
    """One run of `ECGTwin.sample`: its records, all that repeats it, the backend that sampled it, and its time."""

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


class ECGTwin:
    """A pretrained ECGTwin (arXiv 2508.02720): autoencoder, Individual Base Extractor, denoiser and text encoder.

    Generated ECGs are synthetic and not for diagnosis.

    Args:
        config: sizes and text encoder. networks: encoder, decoder, extractor and denoiser. name: what records call
            the model. card: text of its model card. device: for all networks; None takes CUDA where torch has it,
            else the CPU.
    """

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
    def from_pretrained(cls, model: str | Path = "bundled", device: str | torch.device | None = None) -> ECGTwin:
        """Load a model directory, a Hugging Face hub id 'organisation/name', or "bundled", the package's own.

        Raises CheckpointError or TextEncoderError naming the file and the first parameter that does not fit.
        """
        config, networks, card = read_model(find_model(model))
        return cls(config, networks, str(model), card, device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a model directory that `from_pretrained` reads. dtype: float type to store, float32 if None."""
        states = {role: network.state_dict() for role, network in self.networks.items()}
        write_model(folder, self.config, states, self.card, dtype)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of signal (1000,) at each timestep."""
        return alphas_cumprod().to(self.device)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Made on first use: other encoders than 'hash' load weights of their own."""
        return text_encoder(self.config.text_encoder, self.config.text_width)

    @torch.no_grad()
    def base_vector(self, record: Record) -> Tensor:
        """The base vector (256,) (the extractor's width) of a record: what stays of the patient in any condition.

        The record is prepared (`data.preprocess.prepare`), encoded to the mean of its latent without noise, so that the
        result is deterministic, and seen under its own report, heart rate, age and sex. A record that lacks report,
        age or sex is seen under the extractor's learned class-free token instead.
        """
        record = prepare(record)
        latent = self.latent(record)
        text = patient = None
        if None not in (record.report, record.age, record.sex):
            own = Condition(record.report, record.heart_rate, record.age, record.sex)
            text, patient = self.tokens(own)
        return extract(self.networks["extractor"], latent, text, None, patient).base_vectors[0]

    def warmup(self, count: int = 1, dtype: torch.dtype = torch.float32) -> None:
        """Pay the costs of first use: weights packed, text encoder loaded, for `count` records at a time in `dtype`."""
        width = self.networks["extractor"].classfree_emb.shape[1]
        condition = Condition("sinus rhythm", 70.0, 60.0, "F")
        self.sample(torch.zeros(width), condition, count=count, batch_size=count, steps=1, dtype=dtype)
        rng = np.random.default_rng(0)
        signal = rng.normal(size=(SAMPLES, len(MODEL_LEADS))).astype(np.float32)
        self.base_vector(Record(signal, SAMPLING_RATE, MODEL_LEADS, 60.0, "F", condition.report, 70.0))

    @torch.no_grad()
    def latent(self, record: Record) -> Tensor:
        """The mean latent (1, channels, 128), scaled, of a prepared record."""
        signal = torch.from_numpy(record.signal)[None].to(self.device)
        no_noise = torch.zeros(1, self.networks["denoiser"].channels, SAMPLES // 8, device=self.device)
        return self.networks["encoder"](signal, no_noise)[0]

    def generate(
        self,
        record: Record,
        report: str,
        heart_rate: float | None = None,
        age: float | None = None,
        sex: str | None = None,
        **sampling,
    ) -> list[Record]:
        """Twins of a record: the same patient under another condition.

        Args:
            record: the patient's own ECG; 12 leads or those from which they derive, at least 10 s.
            report: statements joined by "|", as in "atrial fibrillation|rapid ventricular response".
            heart_rate, age, sex: bpm, years, "F" or "M"; the record's own where None.
            sampling: count=8, sampler="dpmpp", steps=25, seed=0 and the other keyword arguments of `sample`.

        Returns:
            Records of 1024 samples at 102.4 Hz in mV, leads in the order of MODEL_LEADS, carrying their condition.

        Raises:
            RecordError, LeadError: the record cannot be used. ConditionError: a condition is missing or out of range.
            BackendError: a backend asked for by name cannot run.
        """
        record = prepare(record)
        condition = Condition.from_reference(record, report, heart_rate, age, sex)
        return self.sample(self.base_vector(record), condition, **sampling).records

    @torch.no_grad()
    def sample(
        self,
        base_vector: Tensor,
        condition: Condition,
        *,
        count: int = 8,
        sampler: str = "dpmpp",
        steps: int = 25,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int = 32,
        backend: str = "auto",
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> Generation:
        """Generate `count` records under one base vector and condition.

        Noise is keyed by (seed, record index, step): record i has the index first_index + i and is the same, up to
        rounding, whatever `count` and `batch_size` are.

        Args:
            base_vector: (256,), from `base_vector`. sampler: "ddpm", "ddim" or "dpmpp". steps: 1..1000.
            seed: 0..2^64-1. backend: a backend's name, or "auto".
            dtype: of the networks' arithmetic, float32 or the faster bfloat16; the trajectory stays float32.
            progress: called as progress(done, total) after each step of each batch.
        """
        _at_least_one("count", count)
        _at_least_one("batch_size", batch_size)
        total = steps * -(-count // batch_size)
        signals = []
        began = time.perf_counter()
        for batch, start in enumerate(range(0, count, batch_size)):
            size = min(batch_size, count - start)
            made = self.signals(
                base_vector.expand(size, -1),
                [condition] * size,
                sampler=sampler,
                steps=steps,
                seed=seed,
                first_index=first_index + start,
                backend=backend,
                dtype=dtype,
                progress=progress and (lambda done, _, before=batch * steps: progress(before + done, total)),
            )
            signals.append(made.signals)
        seconds = time.perf_counter() - began
        records = [
            Record(
                signal, SAMPLING_RATE, MODEL_LEADS, condition.age, condition.sex, condition.report,
                condition.heart_rate, f"ECGTwin {self.name} seed {seed} index {index}",
            )
            for index, signal in enumerate(np.concatenate(signals), start=first_index)
        ]  # fmt: skip
        device = str(self.device)
        return Generation(
            records, condition, self.name, sampler, steps, seed, first_index, made.backend, dtype, device, seconds
        )

    @torch.no_grad()
    def signals(
        self,
        base_vectors: Tensor,
        conditions: Sequence[Condition],
        *,
        sampler: str = "dpmpp",
        steps: int = 25,
        seed: int = 0,
        first_index: int = 0,
        backend: str = "auto",
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> Signals:
        """A twin of each of the base vectors (B, 256) under the condition beside it, all in one batch.

        Twin b has the record index first_index + b: `sample` gives the same. Other arguments as there.
        """
        text, mask, patient = self._batch(conditions)
        latents, backend_ran = generate_latents(
            self.networks["denoiser"], text, mask, patient, base_vectors.to(self.device), sampler=sampler, steps=steps,
            seed=seed, first_index=first_index, backend=backend, dtype=dtype, progress=progress,
        )  # fmt: skip
        decoded = decode(self.networks["decoder"], latents, backend=backend, dtype=dtype)
        return Signals(decoded.signals.cpu().numpy(), backend_ran)

    def edit(self, record: Record | Tensor, report: str, **options) -> Editing:
        """Twins of a patient, and the same twins with one thing in their report changed.

        Source and edits are sampled together from the same noise. Below the timestep `threshold` an edit takes the
        source's attention to the statements (arXiv 2508.02720, editing).

        Args:
            record: the patient's own ECG, or a base vector (256,), which needs heart_rate, age and sex too.
            report: of the source twins, statements joined by "|".
            options: either swap, a report in its place, or add, a further statement. Statements correspond by position:
                where `swap` has more, the further ones are as added; where it has fewer, the attention of those
                that both have is scaled to a sum of 1. weight=1.0: of an added statement's attention, or several
                weights, for one edit each. threshold=200: 0..1000. heart_rate, age, sex: bpm, years, "F" or "M"; the
                record's own where None. count=1: twins. sampler="dpmpp", steps=25, seed=0, first_index=0,
                batch_size=32, backend="auto", dtype=torch.float32, progress=None: as of `sample`.

        Raises:
            ConditionError: both or neither of swap and add; a condition that is missing or out of range.
            RecordError, LeadError: the record cannot be used. BackendError: a backend asked for by name cannot run.
        """
        from .editing import edit

        return edit(self, record, report, **options)

    def attention(
        self, record: Record, base_vector: Tensor | None = None, timestep: int = 100, seed: int = 0
    ) -> Attention:
        """How much each part of an ECG attends to each statement of its report, for showing what the denoiser looks at.

        The record's latent, noised to `timestep` (0..999), goes through the denoiser once.

        Args:
            record: with report, age and sex, such as a twin. base_vector: (256,); the record's own where None.

        Returns:
            The statements, and weights (T, 128), one column for 80 ms.
        """
        from .editing import attention

        return attention(self, record, base_vector, timestep, seed)

    def tokens(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Statement embeddings (1, T, width) and patient vector (1, 3) on the device."""
        text, patient = self._embedded(condition.report), torch.from_numpy(condition.patient_vector())
        return text[None].to(self.device), patient[None].to(self.device)

    @cached_property
    def _embedded(self) -> Callable[[str], Tensor]:
        return lru_cache(maxsize=4096)(self._embed)

    def _embed(self, report: str) -> Tensor:
        statements = split_report(report)
        limit = self.networks["denoiser"].c_pos_embed.pos_encoding.shape[1]
        if len(statements) > limit:
            count = f"{len(statements)} statements"
            raise ConditionError(f"the report has {count}; model {self.name} takes {limit} at most")
        return torch.from_numpy(self.text_encoder.encode(statements))

    def _batch(self, conditions: Sequence[Condition]) -> tuple[Tensor, Tensor | None, Tensor]:
        texts = [self._embedded(condition.report) for condition in conditions]
        patients = np.stack([condition.patient_vector() for condition in conditions])
        counts = torch.tensor([len(text) for text in texts])
        mask = (torch.arange(int(counts.max())) < counts[:, None]).float().to(self.device)
        padded = pad_sequence(texts, batch_first=True).to(self.device)
        return padded, None if mask.all() else mask, torch.from_numpy(patients).to(self.device)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ECGTwinError(f"{name} is {value}, expected at least 1")
