"""Forward passes with gradients for training, by this package's operators.

The arithmetic is that of `models`; what differs is that each step between two matrix products is one operator. Under
autocast everything between them stays in bfloat16, as the products do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import extension
from ..errors import BackendError
from ..models.diffusets import DiffuSETSUNet
from ..models.ecgtwin import CrossAttention, DiT
from ..models.extractor import BaseExtractor
from ..ops import OPERATORS, multihead_attention, rope_embed
from .choice import say_once
from .operator_blocks import Affine, Statements, adax_blocks, affine_norm, hidden_bias, residual_norm, self_attention
from .unet_training import UNetTraining

BACKENDS = ("auto", "operators", "compile", "reference")


def training_forward(network: nn.Module, backend: str = "auto") -> Callable[..., Tensor]:
    """A function with the arguments and the result of the network's own forward, faster, differentiable.

    Args:
        network: a `DiT`, without `need_weights` and `edit`; a `BaseExtractor`, of which `extract_features` without
            `reduce` is meant; or a `DiffuSETSUNet`. Any other network has no operators.
        backend: "operators", compiled ones; "reference", the network itself; "compile", that under torch.compile;
            "auto", operators on a CPU that can run them, else the reference: on a GPU they have not been measured.

    Raises:
        BackendError: unknown backend, or "operators" where they cannot run; names the reasons.
    """
    if backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    reference = network.extract_features if isinstance(network, BaseExtractor) else network
    if backend == "reference":
        return reference
    if backend == "compile":
        return torch.compile(reference)
    if backend == "auto" and not on_cpu(network):
        return reference
    reasons = not_supported_reasons(network)
    if not reasons:
        forward = next(forward for kind, forward in _FORWARDS.items() if isinstance(network, kind))
        return forward(network)
    refusal = f"backend 'operators' cannot train a {type(network).__name__}: {'; '.join(reasons)}"
    if backend == "operators":
        raise BackendError(refusal)
    if extension.MODULE is None:
        say_once(f"training with backend 'reference', because {refusal}", 3)
    return reference


def not_supported_reasons(network: nn.Module) -> list[str]:
    """Why the operators cannot serve this network; empty if they can."""
    if not isinstance(network, tuple(_FORWARDS)):
        names = ", ".join(kind.__name__ for kind in _FORWARDS)
        return [f"only {names} have a forward of operators"]
    if extension.MODULE is None:
        return [extension.REASON]
    return [reason for device in sorted(_devices(network)) if (reason := _why_not(device))]


def on_cpu(network: nn.Module) -> bool:
    """Whether every parameter lies on the CPU."""
    return _devices(network) <= {"cpu"}


def _devices(network: nn.Module) -> set[str]:
    return {weight.device.type for weight in network.parameters()}


def _why_not(device: str) -> str | None:
    """Why some operator cannot run on a type of device."""
    if device not in ("cpu", "cuda"):
        return f"no kernels are written for {device}"
    return next((reason for operator in OPERATORS.values() if (reason := operator.why_not(device))), None)


class _Denoiser:
    """`DiT.forward` (arXiv 2508.02720, stage 2)."""

    def __init__(self, network: DiT):
        self.network = network

    def __call__(
        self, x: Tensor, t: Tensor, text_embed: Tensor, text_mask: Tensor | None, patient: Tensor, base_vector: Tensor
    ) -> Tensor:
        net = self.network
        h = _embed(x, net.x_embedder)
        c = F.silu(net.t_embedder(t) + net.ib_projector(base_vector))
        per_token = patient.unsqueeze(1).expand(-1, text_embed.shape[1], -1)
        tokens = net.c_pos_embed(net.text_projector(torch.cat([per_token, text_embed], dim=-1)))
        tokens = F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-6)
        bias = None if text_mask is None else hidden_bias(text_mask == 0)
        modulations = [block.adaLN_modulation[1](c).to(h.dtype).chunk(6, dim=-1) for block in net.blocks]
        statements = [_statements(block.attn2, tokens) for block in net.blocks]
        return net.final_layer(adax_blocks(net.blocks, h, modulations, statements, bias)).transpose(1, 2)


class _Extractor:
    """`BaseExtractor.extract_features` (arXiv 2508.02720, stage 1)."""

    def __init__(self, network: BaseExtractor):
        self.network = network

    def __call__(
        self, x: Tensor, text_embed: Tensor | None, mask: Tensor | None, patient: Tensor | None
    ) -> Tensor:
        net = self.network
        h = _embed(x.transpose(1, 2), net.signal_embedding)
        tokens, padding = net._condition(x, text_embed, mask, patient)
        bias = None
        if padding is not None:
            bias = padding.float() if net.float_mask else hidden_bias(padding)
        plus, minus = h.new_ones(h.shape[0], h.shape[2]), -h.new_ones(h.shape[0], h.shape[2])
        normed = _affine_norm(h, net.layers[0].layer_norm1)
        for index, layer in enumerate(net.layers):
            attended = self_attention(layer.self_attn, normed)
            h, normed = _residual_norm(h, plus, attended, layer.layer_norm2)
            explained = F.relu(_packed_attention(layer.cross_attn, normed, layer.condition_norm(tokens), bias))
            h, normed = _residual_norm(h, minus, explained, layer.layer_norm3)
            hidden = layer.feed_forward(normed)
            following = net.layers[(index + 1) % len(net.layers)].layer_norm1
            h, normed = _residual_norm(h, plus, hidden, following)
        return h.mean(dim=1)


_FORWARDS = {DiT: _Denoiser, BaseExtractor: _Extractor, DiffuSETSUNet: UNetTraining}
"""By network."""


def _precision(x: Tensor) -> torch.dtype:
    """That of matrix products here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _embed(x: Tensor, linear: nn.Linear) -> Tensor:
    """Rotary embedding (B, L, D) of x (B, C, L)."""
    dtype = _precision(x)
    return rope_embed(x.to(dtype), linear.weight.to(dtype), linear.bias.to(dtype))


def _packed_attention(attention: nn.MultiheadAttention, x: Tensor, tokens: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of x to tokens by a module whose three input projections are one matrix."""
    width = x.shape[-1]
    weights, biases = attention.in_proj_weight, attention.in_proj_bias
    query = F.linear(x, weights[:width], biases[:width])
    key, value = F.linear(tokens, weights[width:], biases[width:]).chunk(2, dim=-1)
    return attention.out_proj(multihead_attention(query, key, value, bias, attention.num_heads))


def _statements(attention: CrossAttention, tokens: Tensor) -> Statements:
    key, value = attention.kv_proj(tokens).chunk(2, dim=-1)
    key, value = _affine_norm(key, attention.k_norm), _affine_norm(value, attention.v_norm)
    return Statements(key, value, Affine.of(attention.q_norm, key.dtype))


def _affine_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return affine_norm(x, Affine.of(norm, x.dtype))


def _residual_norm(x: Tensor, gate: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return residual_norm(x, gate, y, Affine.of(norm, x.dtype))
