"""Operators: each has a definition in PyTorch, a compiled kernel for the CPU, and one for CUDA where it is built."""

from __future__ import annotations

from . import gated_residual as _gated_residual
from . import group_norm_silu as _group_norm_silu
from . import modulated_layer_norm as _modulated_layer_norm
from . import multihead_attention as _multihead_attention
from . import rope_embed as _rope_embed
from . import sampler_step as _sampler_step
from . import tanh_gelu as _tanh_gelu

OPERATORS = {
    module.OPERATOR.name: module.OPERATOR
    for module in (
        _modulated_layer_norm, _gated_residual, _multihead_attention, _tanh_gelu, _group_norm_silu, _rope_embed,
        _sampler_step,
    )
}
"""Every operator by name."""

modulated_layer_norm = _modulated_layer_norm.modulated_layer_norm
gated_residual = _gated_residual.gated_residual
group_norm_silu = _group_norm_silu.group_norm_silu
multihead_attention = _multihead_attention.multihead_attention
rope_embed = _rope_embed.rope_embed
sampler_step = _sampler_step.sampler_step
tanh_gelu = _tanh_gelu.tanh_gelu

__all__ = [
    "OPERATORS",
    "gated_residual",
    "group_norm_silu",
    "modulated_layer_norm",
    "multihead_attention",
    "rope_embed",
    "sampler_step",
    "tanh_gelu",
]
