"""The transformer denoisers step by step, by this package's operators on weights in the precision of their products.

What does not depend on the latents comes from outside: keys and values of the statements, and of each step a row of
what its timestep and the global conditions make, here called modulation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.baselines import DiTAdaLN, DiTAttn, report_token, statement_tokens
from ..models.ecgtwin import CrossAttention, DiT
from ..ops import gated_residual, modulated_layer_norm, rope_embed
from .cuda_graph import Recent
from .graph_weights import copied, round_products, take_in
from .operator_blocks import (
    Affine,
    Statements,
    adax_blocks,
    affine_norm,
    gelu_mlp,
    hidden_bias,
    residual_norm,
    self_attention,
    statements_attention,
)

Denoiser = DiT | DiTAdaLN | DiTAttn


class Known(NamedTuple):
    """What the conditions of B records make.

    vector: (B, D) float32, to which the embedded time is added. keys, values: (blocks, B, T, D) float32; no blocks, and
    a T of 0, where the denoiser does not attend to statements. bias: (B, T) float32, -inf where one is padding.
    """

    vector: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor


class PackedDenoiser:
    """A denoiser in one precision. Values are copied: later changes of the network do not show."""

    def __init__(self, network: Denoiser, dtype: torch.dtype):
        self.network, self.dtype = copied(network), dtype
        self.recent = Recent()
        self._pack()

    def _pack(self) -> None:
        """Of the copy, which is in float32 yet."""
        round_products(self.network, self.dtype)

    def known(
        self, network: Denoiser, text_embed: Tensor, text_mask: Tensor | None, patient: Tensor, base_vector: Tensor
    ) -> Known:
        """By the network itself, in float32; arguments as of its forward."""
        raise NotImplementedError

    def modulation(self, c: Tensor) -> Tensor:
        """Rows (..., W) of what all blocks take of the sum of time and vector (..., D), float32."""
        raise NotImplementedError

    def epsilon(self, x: Tensor, row: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """The predicted noise (B, C, L), float32, in x (B, C, L), float32, by the step's row (B, W)."""
        raise NotImplementedError

    def _embedded(self, x: Tensor) -> Tensor:
        embedder = self.network.x_embedder
        return rope_embed(x.to(self.dtype), embedder.weight, embedder.bias)


class _Modulated(PackedDenoiser):
    """One whose blocks are modulated: by a single product for all of them."""

    def _pack(self) -> None:
        super()._pack()
        layers = [module.adaLN_modulation[1] for module in self._modulated()]
        self._weight = torch.cat([layer.weight for layer in layers])
        self._bias = torch.cat([layer.bias for layer in layers])

    def _modulated(self) -> list[nn.Module]:
        """What takes rows of it, in their order."""
        return list(self.network.blocks)

    def modulation(self, c: Tensor) -> Tensor:
        return F.linear(F.silu(c).to(self.dtype), self._weight, self._bias)


class PackedDiT(_Modulated):
    """`DiT.forward` (arXiv 2508.02720, stage 2)."""

    def _pack(self) -> None:
        super()._pack()
        self._query_norms = [Affine.of(block.attn2.q_norm, self.dtype) for block in self.network.blocks]

    def known(self, network, text_embed, text_mask, patient, base_vector) -> Known:
        per_token = patient.unsqueeze(1).expand(-1, text_embed.shape[1], -1)
        tokens = network.c_pos_embed(network.text_projector(torch.cat([per_token, text_embed], dim=-1)))
        pairs = [_keys_values(block.attn2, block.norm(tokens)) for block in network.blocks]
        return Known(network.ib_projector(base_vector), *_stacked(pairs), _bias(tokens, text_mask))

    def epsilon(self, x: Tensor, row: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        net = self.network
        modulations = [part.chunk(6, dim=-1) for part in row.chunk(len(net.blocks), dim=-1)]
        statements = [Statements(*known) for known in zip(keys, values, self._query_norms, strict=True)]
        h = adax_blocks(net.blocks, self._embedded(x), modulations, statements, bias)
        return net.final_layer(h).transpose(1, 2).float()


class PackedDiTAdaLN(_Modulated):
    """`DiTAdaLN.forward`."""

    def _modulated(self) -> list[nn.Module]:
        return [*self.network.blocks, self.network.final_layer]

    def known(self, network, text_embed, text_mask, patient, base_vector) -> Known:
        report = network.text_projector(report_token(text_embed, text_mask))
        vector = network.ib_projector(base_vector) + report + network.p_embedder(patient)
        nothing = vector.new_empty(0, len(vector), 0, vector.shape[1])
        return Known(vector, nothing, nothing, vector.new_empty(len(vector), 0))

    def epsilon(self, x: Tensor, row: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        net, h = self.network, self._embedded(x)
        parts = row.split(h.shape[2], dim=-1)
        normed = modulated_layer_norm(h, *parts[:2])
        for index, block in enumerate(net.blocks):
            _, _, gate1, shift2, scale2, gate2, *following = parts[6 * index : 6 * index + 8]
            h, normed = gated_residual(h, gate1, self_attention(block.attn, normed), shift2, scale2)
            h, normed = gated_residual(h, gate2, gelu_mlp(block.mlp, normed), *following)
        return net.final_layer.linear(normed).transpose(1, 2).float()


class PackedDiTAttn(PackedDenoiser):
    """`DiTAttn.forward`."""

    def _pack(self) -> None:
        blocks, (last_norm, last) = self.network.blocks, self.network.final_layer
        for block in blocks:
            take_in(block.norm1, block.attn1.in_proj_weight, block.attn1.in_proj_bias)
            take_in(block.norm2, block.attn2.q_proj.weight, block.attn2.q_proj.bias)
            take_in(block.norm3, block.mlp[0].weight, block.mlp[0].bias)
        take_in(last_norm, last.weight, last.bias)
        super()._pack()
        norms = [norm for block in blocks for norm in (block.norm1, block.norm2, block.norm3)]
        self._norms = [Affine.of(norm, self.dtype) for norm in (*norms, last_norm)]
        self._query_norms = [Affine.of(block.attn2.q_norm, self.dtype) for block in blocks]

    def known(self, network, text_embed, text_mask, patient, base_vector) -> Known:
        tokens = network.text_projector(statement_tokens(text_embed, patient))
        pairs = [_keys_values(block.attn2, block.cnorm(tokens)) for block in network.blocks]
        return Known(network.ib_projector(base_vector), *_stacked(pairs), _bias(tokens, text_mask))

    def modulation(self, c: Tensor) -> Tensor:
        return c.to(self.dtype)

    def epsilon(self, x: Tensor, row: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        net, norms = self.network, self._norms
        h, ones = self._embedded(x) + row.unsqueeze(1), torch.ones_like(row)
        normed = affine_norm(h, norms[0])
        for index, block in enumerate(net.blocks):
            second, third, following = norms[3 * index + 1 : 3 * index + 4]
            statements = Statements(keys[index], values[index], self._query_norms[index])
            h, normed = residual_norm(h, ones, self_attention(block.attn1, normed), second)
            h, normed = residual_norm(h, ones, statements_attention(block.attn2, normed, statements, bias), third)
            h, normed = residual_norm(h, ones, gelu_mlp(block.mlp, normed), following)
        return net.final_layer[1](normed).transpose(1, 2).float()


PACKED: dict[type, type[PackedDenoiser]] = {DiT: PackedDiT, DiTAdaLN: PackedDiTAdaLN, DiTAttn: PackedDiTAttn}
"""By network."""


def pack_denoiser(network: Denoiser, dtype: torch.dtype) -> PackedDenoiser:
    return PACKED[type(network)](network, dtype)


def _keys_values(attention: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    key, value = attention.kv_proj(tokens).chunk(2, dim=-1)
    return attention.k_norm(key), attention.v_norm(value)


def _stacked(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*pairs, strict=True)
    return torch.stack(keys), torch.stack(values)


def _bias(tokens: Tensor, text_mask: Tensor | None) -> Tensor:
    return tokens.new_zeros(tokens.shape[:2]) if text_mask is None else hidden_bias(text_mask == 0)
