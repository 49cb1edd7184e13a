"""DiffuSETS's U-Net on the CPU with less work: the same parameters, the same result (arXiv 2501.05932).

Exact algebra: two linear layers in a row are one; the attention to the one condition token is a constant of the record,
the same at every step; what a timestep adds is a row of a table. Activations are (B, L, channels) throughout, so that a
convolution is one product over the windows of its input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import extension
from ..models.diffusets import AttentionPair, Block, DiffuSETSUNet
from ..ops import multihead_attention
from .cpu_support import DTYPES

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether torch has oneDNN's products of weights that are packed beforehand: in float32 twice as fast as `addmm`, but
for those of fewer than SMALL multiplications."""

SMALL = 2**18


class Linear(NamedTuple):
    """weight x + bias, the weight (outputs, inputs); `packed` is the weight as oneDNN takes it."""

    weight: Tensor
    bias: Tensor
    packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self._small(x):
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def onto(self, y: Tensor, x: Tensor) -> Tensor:
        """y + weight x + bias."""
        x = x.to(self.weight.dtype)
        if self._small(x):
            return y + F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise.binary(x, y.to(x.dtype), self.packed, self.bias, "add")

    def _small(self, x: Tensor) -> bool:
        return self.packed is None or x.numel() * len(self.bias) < SMALL

    def made(self, dtype: torch.dtype) -> Linear:
        """A copy in this precision, packed."""
        weight, bias = (value.detach().to(dtype, copy=True).contiguous() for value in self[:2])
        packs = ONEDNN and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return Linear(weight, bias, torch.ops.mkldnn._reorder_linear_weight(weight, None) if packs else None)


def _exact(linear: nn.Linear | nn.Conv1d) -> Linear:
    """A linear layer or a convolution of width 1, in float64."""
    return Linear(linear.weight.double().flatten(1), linear.bias.double())


def _chained(*layers: Linear) -> Linear:
    """One layer after the other as one layer."""
    first, *others = layers
    for layer in others:
        first = Linear(layer.weight @ first.weight, layer.weight @ first.bias + layer.bias)
    return first


class Norm(NamedTuple):
    """Arguments of `layer_norm` behind the input."""

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, *self)


def _layer_norm(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.normalized_shape, norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps)


def _group_norm(norm: nn.GroupNorm, length: int) -> Norm:
    """A GroupNorm of one group: a LayerNorm over positions and channels."""
    weight, bias = norm.weight.detach().repeat(length, 1), norm.bias.detach().repeat(length, 1)
    return Norm((length, norm.num_channels), weight, bias, norm.eps)


class Windows(NamedTuple):
    """A convolution of (B, L, channels): a product over windows `width` positions wide and `stride` apart, of which the
    first begins `before` positions ahead of the input. Each gives `outputs` positions."""

    product: Linear
    width: int
    before: int
    stride: int = 1
    outputs: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        if self.width == 1:
            return self.product(x)
        x = F.pad(x, (0, 0, self.before, self.width - 1 - self.before))
        windows, row = length // self.stride, self.width * channels
        x = x.as_strided((batch, windows, row), (x.stride(0), self.stride * channels, 1))
        return self.product(x.reshape(batch * windows, row)).view(batch, windows * self.outputs, -1)


def _convolution(conv: nn.Conv1d, dtype: torch.dtype) -> Windows:
    width = conv.kernel_size[0]
    product = Linear(conv.weight.transpose(1, 2).flatten(1), conv.bias).made(dtype)
    return Windows(product, width, (width - 1) // 2, conv.stride[0])


def _doubling(conv: nn.ConvTranspose1d, dtype: torch.dtype) -> Windows:
    """A transposed convolution of kernel 4, stride 2, padding 1: its even positions take taps 3 and 1 of the window's
    first two positions, its odd ones taps 2 and 0 of the last two."""
    zero, one, two, three = conv.weight.transpose(0, 1).unbind(-1)
    nothing = torch.zeros_like(zero)
    weight = torch.cat([torch.cat([three, one, nothing], 1), torch.cat([nothing, two, zero], 1)])
    return Windows(Linear(weight, conv.bias.repeat(2)).made(dtype), 3, 1, outputs=2)


class _Pair:
    """A level's block or the bottleneck at one length."""

    def __init__(self, pair: AttentionPair, length: int, dtype: torch.dtype):
        level = isinstance(pair, Block)
        before, between, after = (
            (pair.pre_shortcut_convs, pair.shortcut_convs, pair.post_shortcut_convs)
            if level
            else (pair.bottleneck_conv1, pair.bottleneck_conv1_2, pair.bottleneck_conv2)
        )
        norms = (pair.layer_norm1, pair.layer_norm2) if level else (
            pair.bottleneck_layer_norm1, pair.bottleneck_layer_norm2
        )  # fmt: skip
        self.before, self.between, self.after = (_convolution(conv, dtype) for conv in (before, between, after))
        self.norm, self.last_norm = (_group_norm(norm, length) for norm in norms)
        shortcut = level and isinstance(pair.res_conv, nn.Conv1d)
        self.shortcut = _exact(pair.res_conv).made(dtype) if shortcut else None
        self._pack_attention(pair, dtype)

    def _pack_attention(self, pair: AttentionPair, dtype: torch.dtype) -> None:
        own, cross = pair.self_attention, pair.cross_attention
        self.heads = own.attention.num_heads
        inner = [_projection(own.attention, part) for part in range(3)]
        outer = [_exact(linear) for linear in (own.to_q, own.to_k, own.to_v)]
        parts = [_chained(first, second) for first, second in zip(outer, inner, strict=True)]
        joined = Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self.queries_keys_values = joined.made(dtype)
        self.attended = _chained(_exact(own.attention.out_proj), _exact(own.to_out)).made(dtype)
        self.own_norm, self.joint_norm = _layer_norm(own.norm), _layer_norm(pair.attention_norm)
        values = _exact(cross.to_v), _projection(cross.attention, 2)
        self._token = _chained(*values, _exact(cross.attention.out_proj), _exact(cross.to_out)).made(torch.float32)
        self._condition = _exact(cross.value_combiner).made(torch.float32)
        self._condition_norm = _layer_norm(cross.condition_normalization)

    def token(self, condition: Tensor) -> Tensor:
        """What the attention to the condition (B, 1, width) adds to every position, (B, 1, channels)."""
        return self._token(self._condition_norm(self._condition(condition)))

    def __call__(self, x: Tensor, time: Tensor, token: Tensor) -> Tensor:
        h = self.between(F.mish(self.norm(self.before(x + time))))
        query, key, value = self.queries_keys_values(self.own_norm(h)).chunk(3, dim=-1)
        h = self.attended.onto(h, multihead_attention(query, key, value, None, self.heads)) + token
        h = F.mish(self.last_norm(self.after(self.joint_norm(h))))
        return h.add_(x) if self.shortcut is None else self.shortcut.onto(h, x)


def _projection(attention: nn.MultiheadAttention, part: int) -> Linear:
    """The projection of queries (0), keys (1) or values (2)."""
    return Linear(attention.in_proj_weight.chunk(3)[part].double(), attention.in_proj_bias.chunk(3)[part].double())


class PackedUNet:
    """A `DiffuSETSUNet` for latents of one length. Values are copied: later changes of the network do not show."""

    def __init__(self, network: DiffuSETSUNet, length: int, dtype: torch.dtype):
        levels = network.downsampling_blocks
        lengths = [length >> depth for depth in range(len(levels) + 1)]
        self._down = [
            (_Pair(level.block, own, dtype), _convolution(level.down, dtype))
            for level, own in zip(levels, lengths, strict=False)
        ]
        self._bottleneck = _Pair(network.bottelneck, lengths.pop(), dtype)
        self._up = [
            (_doubling(level.up, dtype), _Pair(level.block, own, dtype))
            for level, own in zip(network.upsampling_blocks, reversed(lengths), strict=True)
        ]
        last = network.output_conv
        self._head = _convolution(last[0], dtype), _convolution(last[2], dtype)
        blocks = [level.block for level in levels], [network.bottelneck], [up.block for up in network.upsampling_blocks]
        embedders = [block.time_emb for group in blocks for block in group]
        tables = [embedder.fc2(F.mish(embedder.fc1(embedder.embeddings))) for embedder in embedders]
        self._times, self._widths = torch.cat(tables, dim=1), [table.shape[1] for table in tables]
        self._dtype = dtype
        self._pairs = [pair for pair, _ in self._down] + [self._bottleneck] + [pair for _, pair in self._up]

    def tokens(self, condition: Tensor) -> list[Tensor]:
        """What the condition (B, 1, width) adds in each block."""
        return [pair.token(condition).to(self._dtype) for pair in self._pairs]

    def __call__(self, x: Tensor, t: Tensor, tokens: list[Tensor]) -> Tensor:
        """The predicted noise (B, channels, L) in x at timesteps t (B,)."""
        x = x.transpose(1, 2).to(self._dtype).contiguous()
        times = self._times[t].to(self._dtype).unsqueeze(1).split(self._widths, dim=-1)
        given = zip(times, tokens, strict=True)
        skips: list[Tensor] = []
        for block, halve in self._down:
            skips.append(block(x, *next(given)))
            x = halve(skips[-1])
        x = self._bottleneck(x, *next(given))
        for depth, (double, block) in enumerate(self._up):
            x, skip = double(x), skips.pop()
            x = block(torch.cat([x, skip], dim=-1) if depth else x, *next(given))
        first, last = self._head
        return last(F.mish(first(x))).float().transpose(1, 2)


def unet_reasons(network: DiffuSETSUNet, length: int, dtype: torch.dtype = torch.float32) -> list[str]:
    """Why the CPU engine cannot run this U-Net on latents of this length; empty if it can."""
    reasons = [] if extension.MODULE is not None else [extension.REASON]
    if dtype not in DTYPES:
        reasons.append(f"dtype must be torch.float32 or torch.bfloat16, but it is {dtype}")
    factor = 2 ** len(network.downsampling_blocks)
    if length % factor or not length:
        reasons.append(f"the length of a latent must be a multiple of {factor}, but it is {length}")
    return reasons
