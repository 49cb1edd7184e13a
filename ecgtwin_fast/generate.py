"""Twins of a patient's ECG under another condition: the whole way from a record to generated records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .data.condition import split_report
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLES, SAMPLING_RATE, prepare
from .data.record import Record
from .engine.choice import GPU_BACKENDS
from .engine.decoder import decode
from .engine.extractor import extract
from .engine.latents import generate_latents
from .engine.threads import one_thread
from .errors import ConditionError
from .generator import Condition, Generation, Generator, Signals
from .samplers import DEFAULT_SAMPLER, DEFAULT_STEPS, Progress, alphas_cumprod

if TYPE_CHECKING:
    from .editing import Attention, Editing


class ECGTwin(Generator):
    """A pretrained ECGTwin (arXiv 2508.02720): autoencoder, Individual Base Extractor, denoiser and text encoder.

    Generated ECGs are synthetic and not for diagnosis. Constructed from networks as any `Generator`.
    """

    model_type = "ecgtwin"

    @classmethod
    def from_pretrained(cls, model: str | Path = "bundled", device: str | torch.device | None = None) -> ECGTwin:
        """Load a model directory, a Hugging Face hub id 'organisation/name', or "bundled", the package's own.

        Raises CheckpointError or TextEncoderError naming the file and the first parameter that does not fit.
        """
        return cls._load(model, device)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of signal (1000,) at each timestep."""
        return alphas_cumprod().to(self.device)

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
        with one_thread():
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
        with one_thread():
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
            sampling: count=8, sampler="sde-dpmpp", steps=25, seed=0 and the other keyword arguments of `sample`.

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
        sampler: str = DEFAULT_SAMPLER,
        steps: int = DEFAULT_STEPS,
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
            base_vector: (256,), from `base_vector`. sampler: "ddpm", "ddim", "dpmpp" or "sde-dpmpp". steps: 1..1000.
            seed: 0..2^64-1. backend: a backend's name, or "auto".
            dtype: of the networks' arithmetic, float32 or the faster bfloat16; the trajectory stays float32.
            progress: called as progress(done, total) after each step of each batch.
        """

        def make(size: int, **options) -> Signals:
            return self.signals(base_vector.expand(size, -1), [condition] * size, **options)

        return self._in_batches(
            make, condition, count=count, sampler=sampler, steps=steps, seed=seed, first_index=first_index,
            batch_size=batch_size, backend=backend, dtype=dtype, progress=progress,
        )  # fmt: skip

    @torch.no_grad()
    def signals(
        self,
        base_vectors: Tensor,
        conditions: Sequence[Condition],
        *,
        sampler: str = DEFAULT_SAMPLER,
        steps: int = DEFAULT_STEPS,
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
        decoder_backend = backend_ran if backend_ran in GPU_BACKENDS else backend
        decoded = decode(self.networks["decoder"], latents, backend=decoder_backend, dtype=dtype)
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
                record's own where None. count=1: twins. sampler="sde-dpmpp", steps=25, seed=0, first_index=0,
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

    def _embed(self, report: str) -> Tensor:
        statements = split_report(report)
        positions = getattr(self.networks["denoiser"], "c_pos_embed", None)
        limit = len(statements) if positions is None else positions.pos_encoding.shape[1]
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
