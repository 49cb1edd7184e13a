"""A user's own denoiser: it shares names and shapes of its parameters with the published one, and nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Clock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float().outer(torch.exp(torch.arange(128) * (-math.log(1e4) / 128)))
        return self.mlp(torch.cat((torch.cos(angles), torch.sin(angles)), 1).to(self.mlp[0].weight.dtype))


class Places(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.pos_encoding = nn.Parameter(torch.randn(1, 25, width) / 50)


class Lookup(nn.Module):
    """Cross-attention by torch's own kernel."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.kv_proj = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.q_norm, self.k_norm, self.v_norm = (nn.LayerNorm(width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        key, value = self.kv_proj(tokens).chunk(2, -1)
        parts = self.q_norm(self.q_proj(x)), self.k_norm(key), self.v_norm(value)
        heads = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        visible = None if mask is None else mask.bool()[:, None, None]
        return self.out_proj(F.scaled_dot_product_attention(*heads, attn_mask=visible).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attn1 = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.attn2 = Lookup(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, tokens: Tensor, c: Tensor, mask: Tensor | None) -> Tensor:
        def norm(value: Tensor) -> Tensor:
            return F.layer_norm(value, value.shape[-1:], eps=1e-6)

        b1, s1, g1, b2, s2, g2 = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        h = norm(x) * (s1 + 1) + b1
        x = x + g1 * self.attn1(h, h, h)[0]
        x = x + self.attn2(norm(x), norm(tokens), mask)
        return x + g2 * self.mlp(norm(x) * (s2 + 1) + b2)


class MyNoisePredictor(nn.Module):
    def __init__(self, width: int = 64, layers: int = 2, num_heads: int = 4, text: int = 48, base: int = 32):
        super().__init__()
        self.final_layer = nn.Linear(width, 4)  # in another order than the published
        self.blocks = nn.ModuleList(Layer(width, num_heads) for _ in range(layers))
        self.x_embedder, self.text_projector = nn.Linear(4, width), nn.Linear(text + 3, width)
        self.ib_projector, self.t_embedder, self.c_pos_embed = nn.Linear(base, width), Clock(width), Places(width)

    def forward(self, xt, step, text, text_mask, pat_info, base_vector):
        h = self.x_embedder(xt.transpose(1, 2))
        first, second = h.chunk(2, -1)
        angles = torch.arange(h.shape[1]).outer(1e4 ** (-torch.arange(0, h.shape[2], 2) / h.shape[2]))
        c, s = angles.cos(), angles.sin()
        h = torch.cat((first * c - second * s, second * c + first * s), -1)
        info = pat_info[:, None].expand(-1, text.shape[1], -1)
        tokens = self.text_projector(torch.cat((info, text), -1)) + self.c_pos_embed.pos_encoding[:, : text.shape[1]]
        condition = self.t_embedder(step) + self.ib_projector(base_vector)
        for block in self.blocks:
            h = block(h, tokens, condition, text_mask)
        return self.final_layer(h).transpose(1, 2)
