"""One evaluation of the denoiser by the CPU engine: a trajectory of one step, which hands out epsilon.

What depends neither on the latents nor on the timestep is kept from one call to the next.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.conditions import Conditions
from ..engine.cpu_denoiser import Bases, PackedDenoiser, conditions, denoise, pack_denoiser, project_bases
from ..engine.cpu_support import precision_reasons, size_reasons
from ..engine.kept import Kept
from ..engine.packing import layout
from ..models.ecgtwin import DiT
from ..samplers import COEFFICIENTS
from .link import Scratch, State

ONLY_EPSILON = [float(name == "k_eps") for name in COEFFICIENTS]


class Prepared(NamedTuple):
    """Keys and values of the statements, and the projected base vectors."""

    known: Conditions
    bases: Bases


def denoiser_reasons(network: DiT, length: int, dtype: torch.dtype) -> list[str]:
    """Why the engine cannot run a denoiser of these sizes; empty if it can."""
    heads = network.blocks[0].attn1.num_heads
    return precision_reasons(dtype) + size_reasons(network.x_embedder.out_features, heads, length)


def fits(
    network: DiT,
    x: Tensor,
    t: Tensor,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    base_vector: Tensor,
) -> bool:
    """Whether the arguments have the documented shapes; others the module itself may broadcast or refuse."""
    batch, tokens = len(x), text_embed.shape[1] if text_embed.dim() == 3 else 0
    patient_width = network.text_projector.in_features - network.text_width
    return (
        batch > 0
        and x.dim() == 3
        and x.shape[1] == network.channels
        and t.shape == (batch,)
        and 0 < tokens <= network.c_pos_embed.pos_encoding.shape[1]
        and text_embed.shape == (batch, tokens, network.text_width)
        and (text_mask is None or text_mask.shape == (batch, tokens))
        and patient.shape == (batch, patient_width)
        and base_vector.shape == (batch, network.base_width)
        and (text_mask is None or bool((text_mask != 0).any(1).all()))
    )


def predict(
    network: DiT,
    x: Tensor,
    t: Tensor,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    base_vector: Tensor,
    *,
    dtype: torch.dtype,
    state: State,
    scratch: Scratch,
) -> Tensor:
    """Epsilon (B, channels, L), float32; arguments as in `DiT.forward`, of the shapes that `fits` wants.

    Args:
        dtype: of the products. state: changes when the weights do. scratch: holds what is kept between calls.
    """
    network.length = x.shape[-1]
    packed = scratch.of_state((network.length, dtype), state, lambda: pack_denoiser(network, layout(dtype)))
    given = [None if value is None else value.float() for value in (text_embed, text_mask, patient, base_vector)]
    kept = scratch.setdefault(("conditions", dtype), Kept())
    prepared = kept.get(packed, given, lambda: _prepare(network, packed, *given, dtype))
    x = x.contiguous()
    timesteps = t.unique()
    if len(timesteps) == 1:
        return _step(network, packed, prepared, x, timesteps, dtype)
    epsilon = torch.empty_like(x)
    for timestep in timesteps:
        rows = (t == timestep).nonzero().flatten()
        own = Prepared(*(part._replace(of_record=part.of_record[rows]) for part in prepared))
        epsilon[rows] = _step(network, packed, own, x[rows], timestep[None], dtype)
    return epsilon


def _prepare(
    network: DiT,
    packed: PackedDenoiser,
    text_embed: Tensor,
    text_mask: Tensor | None,
    patient: Tensor,
    base_vector: Tensor,
    dtype: torch.dtype,
) -> Prepared:
    known = conditions(network, packed.cross, text_embed, text_mask, patient, layout(dtype))
    return Prepared(known, project_bases(network, base_vector))


def _step(
    network: DiT, packed: PackedDenoiser, prepared: Prepared, x: Tensor, timestep: Tensor, dtype: torch.dtype
) -> Tensor:
    status = torch.zeros(2, dtype=torch.int64)
    time = network.t_embedder(timestep)
    return denoise(packed, *prepared, time, torch.tensor([ONLY_EPSILON]), dtype, status, x)
