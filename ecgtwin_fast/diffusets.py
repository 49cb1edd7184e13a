"""DiffuSETS: 12-lead ECGs of a report, heart rate, age and sex, with no reference ECG (arXiv 2501.05932)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .data.condition import split_report
from .data.record import Record
from .engine.choice import use_cpu_engine
from .engine.cpu_support import DTYPES, PackCache, module_reasons
from .engine.decoder import decode
from .engine.unet import PackedUNet, unet_reasons
from .errors import BackendError
from .generator import Condition, Generation, Generator, Signals
from .samplers import DEFAULT_SAMPLER, DEFAULT_STEPS, Epsilon, Progress, sample, schedule

_packed = PackCache(lambda network, size: PackedUNet(network, *size))


class DiffuSETS(Generator):
    """A pretrained DiffuSETS (arXiv 2501.05932): U-Net, the autoencoder's decoder and text encoder.

    Generated ECGs are synthetic and not for diagnosis. Constructed from networks as any `Generator`.
    """

    model_type = "diffusets"

    @classmethod
    def from_pretrained(cls, model: str | Path = "diffusets", device: str | torch.device | None = None) -> DiffuSETS:
        """Load a model directory, a Hugging Face hub id 'organisation/name', or "diffusets", the package's own.

        Raises CheckpointError or TextEncoderError naming the file and the first parameter that does not fit.
        """
        return cls._load(model, device)

    def generate(self, report: str, heart_rate: float, age: float, sex: str, **sampling) -> list[Record]:
        """ECGs of nobody in particular under a condition.

        Args:
            report: statements joined by "|", as in "atrial fibrillation|rapid ventricular response".
            heart_rate, age, sex: bpm (20..300), years (0..120), "F" or "M".
            sampling: count=8, sampler="sde-dpmpp", steps=25, seed=0 and the other keyword arguments of `sample`.

        Returns:
            Records of 1024 samples at 102.4 Hz in mV, leads in the order of MODEL_LEADS, carrying their condition.

        Raises:
            ConditionError: a condition is missing or out of range. BackendError: a backend asked for by name cannot
            run.
        """
        return self.sample(Condition(report, heart_rate, age, sex), **sampling).records

    def sample(
        self,
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
        """Generate `count` records under one condition.

        Noise is keyed by (seed, record index, step): record i has the index first_index + i and is the same, up to
        rounding, whatever `count` and `batch_size` are.

        Args:
            sampler: "ddpm", "ddim", "dpmpp" or "sde-dpmpp". steps: 1..1000. seed: 0..2^64-1.
            backend: "cpu", "reference", or "auto" for the first that can run.
            dtype: of the networks' arithmetic, float32 or bfloat16; the trajectory stays float32.
            progress: called as progress(done, total) after each step of each batch.
        """

        def make(size: int, **options) -> Signals:
            return self.signals([condition] * size, **options)

        return self._in_batches(
            make, condition, count=count, sampler=sampler, steps=steps, seed=seed, first_index=first_index,
            batch_size=batch_size, backend=backend, dtype=dtype, progress=progress,
        )  # fmt: skip

    @torch.no_grad()
    def signals(
        self,
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
        """An ECG under each of B conditions, all in one batch.

        Record b has the index first_index + b: `sample` gives the same. Other arguments as there.
        """
        unet = self.networks["denoiser"]
        plan = schedule(sampler, steps, unet.clip_sample_range)
        eps, backend_ran = self._epsilon(self.tokens(conditions), backend, dtype)
        shape = (len(conditions), unet.channels, unet.length)
        latents = sample(
            plan, eps, shape, seed=seed, first_index=first_index, device=self.device, progress=progress
        )
        decoded = decode(self.networks["decoder"], latents, backend=backend, dtype=dtype)
        return Signals(decoded.signals.cpu().numpy(), backend_ran)

    def tokens(self, conditions: Sequence[Condition]) -> Tensor:
        """The condition token (B, 1, text width + patient numbers) of each condition, on the device."""
        keys = self.networks["denoiser"].patient_keys
        rows = []
        for condition in conditions:
            numbers = {
                "gender": float(condition.sex == "M"), "age": condition.age, "heart rate": condition.heart_rate
            }  # fmt: skip
            patient = torch.tensor([numbers[key] for key in keys], dtype=torch.float32)
            rows.append(torch.cat([self._embedded(condition.report), patient]))
        return torch.stack(rows)[:, None].to(self.device)

    def _embed(self, report: str) -> Tensor:
        return torch.from_numpy(self.text_encoder.encode([prompt(report)]))[0]

    def _epsilon(self, tokens: Tensor, backend: str, dtype: torch.dtype) -> tuple[Epsilon, str]:
        """The predicted noise as a function of latents and timesteps, and the backend that computes it."""
        unet = self.networks["denoiser"]
        reasons = unet_reasons(unet, unet.length, dtype) + module_reasons(unet)
        if use_cpu_engine(backend, "the U-Net", reasons):
            packed = _packed.get(unet, (unet.length, dtype))
            added = packed.tokens(tokens)
            return lambda x, t: packed(x, t, added), "cpu"
        if dtype not in DTYPES:
            raise BackendError(f"dtype must be torch.float32 or torch.bfloat16, but it is {dtype}")

        def eps(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                return unet.denoise(x, t, tokens)

        return eps, "reference"


def prompt(report: str) -> str:
    """The sentences that DiffuSETS embeds for a report's statements; published for two, of which later ones take the
    second's. Raises ConditionError for an empty report."""
    first, *others = split_report(report)
    sentences = [f"Most importantly, the 1st diagnosis is {first}."]
    for place, statement in enumerate(others, start=2):
        sentences.append(f"As a supplementary condition, the {_ordinal(place)} diagnosis is {statement}.")
    return "".join(sentences)


def _ordinal(number: int) -> str:
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
