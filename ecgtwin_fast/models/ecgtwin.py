"""The ECGTwin denoiser: a diffusion transformer on latents, conditioned by AdaX (arXiv 2508.02720, stage 2).

AdaX takes the conditions on two pathways: time and base vector modulate every block (AdaLN), report statements and
patient numbers are tokens that every position attends to.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

AttentionEdit = Callable[[int, Tensor], Tensor]


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def rotary_tables(length: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine (length, width / 2) of the rotary encoding's angles at positions 0..length-1."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotary(x: Tensor) -> Tensor:
    """Rotary position encoding of an embedding (B, L, D) itself: x cos + rotate_half(x) sin, positions 0..L-1."""
    cosine, sine = (torch.cat([table, table], dim=-1).to(x.dtype) for table in rotary_tables(*x.shape[-2:], x.device))
    return x * cosine + rotate_half(x) * sine


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """AdaLN modulation of x (B, L, D) by shift and scale (B, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Timesteps (B,) to (B, width): cosines first, then sines, period 10000."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoid, linear, SiLU, linear: timesteps (B,) to (B, hidden)."""

    def __init__(self, hidden: int, width: int = 256):
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t, self.width).to(self.mlp[0].weight.dtype))


class PositionEncoding(nn.Module):
    """Learned positions added to tokens (B, T, D), T <= max_tokens."""

    def __init__(self, hidden: int, max_tokens: int):
        super().__init__()
        self.pos_encoding = nn.Parameter(0.02 * torch.randn(1, max_tokens, hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.pos_encoding.shape[1]:
            raise ValueError(f"{tokens.shape[1]} statements, but the model takes at most {self.pos_encoding.shape[1]}")
        return tokens + self.pos_encoding[:, : tokens.shape[1]]


class CrossAttention(nn.Module):
    """Attention of positions x (B, L, D) to tokens (B, T, D).

    Queries, keys and values are normed over all D channels before the split into heads. `mask` (B, T) holds zeros
    where a token is padding.
    """

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden)
        self.kv_proj = nn.Linear(hidden, 2 * hidden)
        self.q_norm = nn.LayerNorm(hidden)
        self.k_norm = nn.LayerNorm(hidden)
        self.v_norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None = None, edit: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the attended values (B, L, D) and the attention maps (B, heads, L, T), after `edit` if given."""
        key, value = self.kv_proj(tokens).chunk(2, dim=-1)
        query, key, value = self._split(self.q_norm(self.q_proj(x))), self._split(self.k_norm(key)), self.v_norm(value)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        maps = scores.softmax(dim=-1)
        if edit is not None:
            maps = edit(maps)
        return self.out_proj((maps @ self._split(value)).transpose(1, 2).flatten(2)), maps


class AdaXBlock(nn.Module):
    """Modulated self-attention, cross-attention to the condition tokens, modulated MLP; each a residual."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.attn1 = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.attn2 = CrossAttention(hidden, heads)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, mlp_ratio * hidden), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * hidden, hidden)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        edit: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        h = modulate(self.norm(x), shift1, scale1)
        x = x + gate1.unsqueeze(1) * self.attn1(h, h, h, need_weights=False)[0]
        attended, maps = self.attn2(self.norm(x), self.norm(tokens), mask, edit)
        x = x + attended
        x = x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm(x), shift2, scale2))
        return x, maps


class DiT(nn.Module):
    """ECGTwin's denoiser: predicts the noise epsilon in a latent.

    Args:
        hidden, depth, heads, mlp_ratio: sizes of the transformer.
        channels, length: shape of a latent.
        text_width: width of a statement's embedding. patient_width: numbers in the patient vector.
        base_width: width of the base vector. max_tokens: most statements in a report.
        time_width: width of the timestep sinusoid.
        clip_sample_range: largest value of a clean latent, at which the clipping samplers clip their prediction of it.
    """

    def __init__(
        self,
        hidden: int = 256,
        depth: int = 7,
        heads: int = 8,
        mlp_ratio: int = 4,
        channels: int = 4,
        length: int = 128,
        text_width: int = 768,
        patient_width: int = 3,
        base_width: int = 256,
        max_tokens: int = 25,
        time_width: int = 256,
        clip_sample_range: float = 1.0,
    ):
        super().__init__()
        self.channels, self.length = channels, length
        self.clip_sample_range = clip_sample_range
        self.text_width, self.base_width = text_width, base_width
        self.x_embedder = nn.Linear(channels, hidden)
        self.t_embedder = TimestepEmbedder(hidden, time_width)
        self.text_projector = nn.Linear(text_width + patient_width, hidden)
        self.ib_projector = nn.Linear(base_width, hidden)
        self.c_pos_embed = PositionEncoding(hidden, max_tokens)
        self.blocks = nn.ModuleList(AdaXBlock(hidden, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = nn.Linear(hidden, channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text_embed: Tensor,
        text_mask: Tensor | None,
        patient: Tensor,
        base_vector: Tensor,
        need_weights: bool = False,
        edit: AttentionEdit | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Predict epsilon.

        Args:
            x: noisy latents (B, channels, length). t: timesteps (B,).
            text_embed: one token a statement (B, T, text_width); text_mask: (B, T), zeros mark padding, or None.
            patient: normalised heart rate, age and sex (B, patient_width). base_vector: (B, base_width).
            need_weights: also return the cross-attention maps.
            edit: edit(block, maps) replaces a block's maps (B, heads, length, T) after the softmax (paper: editing).

        Returns:
            epsilon (B, channels, length); with `need_weights` also a list of head-averaged maps (B, length, T) a block.
        """
        h = rotary(self.x_embedder(x.transpose(1, 2)))
        c = self.t_embedder(t) + self.ib_projector(base_vector)
        per_token = patient.unsqueeze(1).expand(-1, text_embed.shape[1], -1)
        tokens = self.c_pos_embed(self.text_projector(torch.cat([per_token, text_embed], dim=-1)))
        weights = []
        for index, block in enumerate(self.blocks):
            block_edit = None if edit is None else lambda maps, index=index: edit(index, maps)
            h, maps = block(h, c, tokens, text_mask, block_edit)
            if need_weights:
                weights.append(maps.mean(dim=1))
        epsilon = self.final_layer(h).transpose(1, 2)
        return (epsilon, weights) if need_weights else epsilon
