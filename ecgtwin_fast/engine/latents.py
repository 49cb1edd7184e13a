"""`generate_latents`: from conditions to latents, the one entry that every backend serves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..samplers import Progress, schedule
from .backends import choose
from .edit import Edit
from .request import Denoiser, Request


class Latents(NamedTuple):
    """Latents (B, C, L), float32, on the denoiser's device, and the name of the backend that made them."""

    latents: Tensor
    backend: str


def generate_latents(
    denoiser: Denoiser,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    base_vector: Tensor,
    *,
    sampler: str = "ddpm",
    steps: int = 1000,
    seed: int = 0,
    first_index: int = 0,
    x_init: Tensor | None = None,
    noise: Tensor | None = None,
    edit: Edit | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Latents:
    """Latents of B records under their conditions (arXiv 2508.02720, stage 2).

    Draws are keyed by (seed, record index, step, element), where record b of the batch has the index
    first_index + b and element is the flat index in the record's (C, L) latent: a record gets the same noise in any
    batch.

    Args:
        denoiser: predicts the noise, e.g. `models.create("dit")`, in eval mode; its attributes `channels` and
            `length` are C and L (4 and 128 where it has none), `clip_sample_range` is the limit of the clipping
            samplers (1). Conditions are moved to its device.
        text_embed: one token a statement (B, T, width). text_mask: (B, T), zeros mark padding, or None.
        patient: normalised heart rate, age and sex (B, 3). base_vector: (B, width).
        sampler: "ddpm", "ddim", "dpmpp" or "sde-dpmpp", with the defaults of `ecgtwin_fast.samplers`. steps: 1..1000.
        seed: 0..2^64-1. first_index: 0..2^63-B.
        x_init: initial latents (B, C, L); by default drawn.
        noise: (steps, B, C, L) in the order performed; by default drawn.
        edit: records are groups of a source and its edits, which take its attention maps (paper: editing) and share
            its draws: record b has the index first_index + b // group.
        backend: a backend's name, or "auto" for the first that can run.
        dtype: of the denoiser's arithmetic, float32 (default) or bfloat16; the trajectory is float32.
        progress: called as progress(done, steps) after each step.

    Raises:
        ConditionError: a condition's shape does not fit.
        SamplerError: unknown sampler; steps, seed, index, x_init or noise do not fit.
        BackendError: the backend is unknown or cannot run; the message lists every reason.
    """
    request = Request(
        denoiser=denoiser,
        text_embed=text_embed,
        text_mask=text_mask,
        patient=patient,
        base_vector=base_vector,
        schedule=schedule(sampler, steps, getattr(denoiser, "clip_sample_range", 1.0)),
        seed=seed,
        first_index=first_index,
        x_init=x_init,
        noise=noise,
        dtype=dtype or torch.float32,
        progress=progress,
        edit=edit,
    )
    request.validate()
    chosen = choose(backend, request)
    return Latents(chosen.run(request), chosen.name)
