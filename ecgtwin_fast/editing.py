"""Edits of a twin: the same draws under a changed report (arXiv 2508.02720, editing)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .data.condition import split_report
from .data.leads import MODEL_LEADS
from .data.preprocess import SAMPLES, SAMPLING_RATE, prepare
from .data.record import Record
from .engine.decoder import decode
from .engine.edit import Edit
from .engine.latents import generate_latents
from .errors import ConditionError, ECGTwinError
from .generate import Condition, ECGTwin
from .samplers import DEFAULT_SAMPLER, DEFAULT_STEPS, Progress

THRESHOLD = 200
"""Timestep of the paper below which attention is taken over."""
ATTENTION_TIMESTEP = 100


@dataclass(frozen=True)
class Editing:
    """One run of `ECGTwin.edit`.

    sources: the twins before the edit. edits: for each weight, the same twins after it. condition: of the sources;
    edited_report: of the edits. backend: that sampled them. seconds: of sampling and decoding.
    """

    sources: list[Record]
    edits: list[list[Record]]
    weights: tuple[float, ...]
    condition: Condition
    edited_report: str
    threshold: int
    model: str
    seed: int
    backend: str
    seconds: float


class Attention(NamedTuple):
    """statements: of a report. weights (T, 128): how much each 80 ms of the ECG attends to each of them; columns sum to
    1, the mean over blocks and heads."""

    statements: list[str]
    weights: np.ndarray


@torch.no_grad()
def edit(
    model: ECGTwin,
    record: Record | Tensor,
    report: str,
    *,
    swap: str | None = None,
    add: str | None = None,
    weight: float | Sequence[float] = 1.0,
    threshold: int = THRESHOLD,
    heart_rate: float | None = None,
    age: float | None = None,
    sex: str | None = None,
    count: int = 1,
    sampler: str = DEFAULT_SAMPLER,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int = 32,
    backend: str = "auto",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Editing:
    """See `ECGTwin.edit`."""
    weights = tuple(float(w) for w in (weight if isinstance(weight, Sequence) else (weight,)))
    if (swap is None) == (add is None):
        raise ConditionError("give either swap, a report in the place of the twin's, or add, a further statement")
    if not weights or not np.isfinite(weights).all():
        raise ConditionError(f"weight is {weight!r}: expected a finite number or several")
    if count < 1 or batch_size < 1:
        raise ECGTwinError(f"count is {count} and batch_size {batch_size}, expected at least 1")
    condition, base_vector = _source(model, record, report, heart_rate, age, sex)
    edited_report = swap if add is None else "|".join(split_report(report) + split_report(add))
    edited = replace(condition, report=edited_report)
    texts = [model.tokens(condition)[0][0], *[model.tokens(edited)[0][0]] * len(weights)]
    patient = model.tokens(condition)[1]
    group = len(texts)
    text = pad_sequence(texts, batch_first=True)
    mask = (torch.arange(text.shape[1]) < torch.tensor([[len(part)] for part in texts])).float().to(model.device)
    scales = torch.tensor([1.0, *weights])
    chunk = max(1, batch_size // group)
    signals, served_by, total = [], backend, steps * -(-count // chunk)
    began = time.perf_counter()
    for batch, start in enumerate(range(0, count, chunk)):
        groups = min(chunk, count - start)
        size = groups * group
        latents, served_by = generate_latents(
            model.networks["denoiser"],
            text.repeat(groups, 1, 1),
            mask.repeat(groups, 1),
            patient.expand(size, -1),
            base_vector.expand(size, -1),
            sampler=sampler,
            steps=steps,
            seed=seed,
            first_index=first_index + start,
            edit=Edit(group, scales.repeat(groups), threshold),
            backend=backend,
            dtype=dtype,
            progress=progress and (lambda done, _, before=batch * steps: progress(before + done, total)),
        )
        decoded = decode(model.networks["decoder"], latents, backend=backend, dtype=dtype)
        signals.append(decoded.signals.cpu().numpy().reshape(groups, group, SAMPLES, len(MODEL_LEADS)))
    seconds = time.perf_counter() - began
    members = np.concatenate(signals).swapaxes(0, 1)

    def records(index: int, asked: Condition, what: str) -> list[Record]:
        return [
            Record(
                signal, SAMPLING_RATE, MODEL_LEADS, asked.age, asked.sex, asked.report, asked.heart_rate,
                f"ECGTwin {model.name} seed {seed} index {number}{what}",
            )
            for number, signal in enumerate(members[index], start=first_index)
        ]  # fmt: skip

    edits = [records(place, edited, f", edited, weight {w:g}") for place, w in enumerate(weights, start=1)]
    return Editing(
        records(0, condition, ""), edits, weights, condition, edited_report, threshold, model.name, seed, served_by,
        seconds,
    )  # fmt: skip


@torch.no_grad()
def attention(model: ECGTwin, record: Record, base_vector: Tensor | None, timestep: int, seed: int) -> Attention:
    """See `ECGTwin.attention`."""
    prepared = prepare(record)
    condition = Condition.from_reference(prepared, record.report)
    text, patient = model.tokens(condition)
    base = model.base_vector(record) if base_vector is None else base_vector.to(model.device)
    latent = model.latent(prepared)
    share = model.alphas_cumprod[timestep]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent)
    x = share.sqrt() * latent + (1 - share).sqrt() * noise
    t = torch.full((1,), timestep, device=model.device)
    _, maps = model.networks["denoiser"](x, t, text, None, patient, base[None], need_weights=True)
    return Attention(split_report(record.report), torch.stack(maps).mean(0)[0].T.cpu().numpy())


def _source(
    model: ECGTwin, record: Record | Tensor, report: str, heart_rate: float | None, age: float | None, sex: str | None
) -> tuple[Condition, Tensor]:
    """The condition of the twin that is edited, and the patient's base vector."""
    if isinstance(record, Tensor):
        return Condition(report, heart_rate, age, sex), record.to(model.device)
    prepared = prepare(record)
    return Condition.from_reference(prepared, report, heart_rate, age, sex), model.base_vector(prepared)
