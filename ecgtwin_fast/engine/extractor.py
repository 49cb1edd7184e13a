"""`extract`: base vectors of records, by whichever engine can."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .choice import engine_for
from .cpu_extractor import cpu_extract, extractor_reasons
from .graph_extractor import graph_extract, graph_reasons


class BaseVectors(NamedTuple):
    """Base vectors (B, hidden), float32, and the name of the backend that made them."""

    base_vectors: Tensor
    backend: str


@torch.no_grad()
def extract(
    extractor: nn.Module,
    latents: Tensor,
    text_embed: Tensor | None = None,
    text_mask: Tensor | None = None,
    patient: Tensor | None = None,
    *,
    backend: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> BaseVectors:
    """Base vectors of records (arXiv 2508.02720, stage 1).

    Args:
        latents: (B, channels, length), as the encoder gives them.
        text_embed: one token a statement (B, T, width), or None for the learned class-free token.
        text_mask: (B, T), zeros mark padding, or None. patient: normalised heart rate, age and sex (B, 3).
        backend: "cpu", "graph" (on a GPU), "reference", or "auto" for the CPU engine where it can run, else the
            reference. dtype: of the products, float32 or bfloat16.

    Raises:
        BackendError: the backend is unknown or cannot run; the message lists every reason.
    """
    engine = engine_for(
        backend,
        "the extractor",
        lambda: extractor_reasons(extractor, latents, dtype),
        lambda: graph_reasons(extractor, dtype),
    )
    given = (latents, text_embed, text_mask, patient)
    if engine == "cpu":
        return BaseVectors(cpu_extract(extractor, dtype, *given), engine)
    if engine == "graph":
        return BaseVectors(graph_extract(extractor, dtype, *given), engine)
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        features = extractor.extract_features(latents.transpose(1, 2), text_embed, text_mask, patient)
    return BaseVectors(features.float(), engine)
