"""The transformer ablations of ECGTwin's paper (arXiv 2508.02720): each keeps one of AdaX's two pathways.

`DiTAdaLN` puts every condition on the global pathway (modulation). `DiTAttn` keeps the token pathway
(cross-attention) and adds time and base vector to its input. Both predict the noise in a latent, called as
`ecgtwin.DiT` is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .ecgtwin import CrossAttention, TimestepEmbedder, modulate, rotary


def gelu_mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def statement_tokens(text_embed: Tensor, patient: Tensor) -> Tensor:
    """Statements (B, T, text_width), each followed by the patient vector (B, P): (B, T, text_width + P)."""
    return torch.cat([text_embed, patient.unsqueeze(1).expand(-1, text_embed.shape[1], -1)], dim=-1)


def report_token(text_embed: Tensor, text_mask: Tensor | None) -> Tensor:
    """The mean (B, text_width) of statements (B, T, text_width); zeros of the mask (B, T) are left out."""
    if text_mask is None:
        return text_embed.mean(dim=1)
    weight = text_mask.to(text_embed.dtype)
    return torch.einsum("bt,btd->bd", weight, text_embed) / weight.sum(dim=1, keepdim=True)


class PatientEmbedder(nn.Module):
    """Patient vector (B, P) to (B, hidden).

    Each number, under a learned scale and bias, multiplies an embedding of its own; the MLP's P outputs are summed.
    """

    def __init__(self, hidden: int, patient_width: int):
        super().__init__()
        self.embedding = nn.Parameter(0.02 * torch.randn(patient_width, hidden))
        self.norm = nn.Parameter(torch.ones(patient_width))
        self.bias = nn.Parameter(torch.zeros(patient_width))
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.SiLU(), nn.Linear(4 * hidden, hidden))

    def forward(self, patient: Tensor) -> Tensor:
        scaled = (patient * self.norm + self.bias).unsqueeze(-1) * self.embedding
        return self.mlp(scaled).sum(dim=1)


class AdaLNBlock(nn.Module):
    """Modulated and gated self-attention and MLP on x (B, L, hidden), under the condition c (B, hidden)."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.mlp = gelu_mlp(hidden, mlp_ratio * hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        h = modulate(self.norm(x), shift1, scale1)
        x = x + gate1.unsqueeze(1) * self.attn(h, h, h, need_weights=False)[0]
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm(x), shift2, scale2))


class AdaLNFinal(nn.Module):
    """Modulated norm and projection (B, L, hidden) to (B, L, channels)."""

    def __init__(self, hidden: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(hidden, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm(x), shift, scale))


class DiTAdaLN(nn.Module):
    """Ablation with adaLN only: time, report, base vector and patient are summed into one vector c.

    Arguments as in `ecgtwin.DiT`, which alone has learned positions and so a limit of tokens.
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
        time_width: int = 256,
        clip_sample_range: float = 1.0,
    ):
        super().__init__()
        self.channels, self.length, self.clip_sample_range = channels, length, clip_sample_range
        self.text_width, self.base_width = text_width, base_width
        self.x_embedder = nn.Linear(channels, hidden)
        self.t_embedder = TimestepEmbedder(hidden, time_width)
        self.p_embedder = PatientEmbedder(hidden, patient_width)
        self.text_projector = nn.Linear(text_width, hidden)
        self.ib_projector = nn.Linear(base_width, hidden)
        self.blocks = nn.ModuleList(AdaLNBlock(hidden, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = AdaLNFinal(hidden, channels)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text_embed: Tensor,
        text_mask: Tensor | None,
        patient: Tensor,
        base_vector: Tensor,
    ) -> Tensor:
        """Predict epsilon (B, channels, length).

        Args:
            x: noisy latents (B, channels, length). t: timesteps (B,).
            text_embed: the report as one token (B, 1, text_width); several (B, T, text_width) are averaged.
            text_mask: (B, T), zeros mark padding that the average leaves out, or None.
            patient: normalised heart rate, age and sex (B, patient_width). base_vector: (B, base_width).
        """
        c = self.t_embedder(t) + self.ib_projector(base_vector)
        c = c + self.text_projector(report_token(text_embed, text_mask)) + self.p_embedder(patient)
        h = rotary(self.x_embedder(x.transpose(1, 2)))
        for block in self.blocks:
            h = block(h, c)
        return self.final_layer(h, c).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Self-attention, cross-attention to the tokens and MLP, each a plain pre-norm residual."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.attn1 = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.cnorm = nn.LayerNorm(hidden, eps=1e-6)
        self.attn2 = CrossAttention(hidden, heads)
        self.norm3 = nn.LayerNorm(hidden, eps=1e-6)
        self.mlp = gelu_mlp(hidden, mlp_ratio * hidden)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h, h, need_weights=False)[0]
        x = x + self.attn2(self.norm2(x), self.cnorm(tokens), mask)[0]
        return x + self.mlp(self.norm3(x))


class DiTAttn(nn.Module):
    """Ablation with cross-attention only: time and base vector are added to every position of the input.

    Arguments as in `ecgtwin.DiT`, which alone has learned positions and so a limit of tokens.
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
        time_width: int = 256,
        clip_sample_range: float = 1.0,
    ):
        super().__init__()
        self.channels, self.length, self.clip_sample_range = channels, length, clip_sample_range
        self.text_width, self.base_width = text_width, base_width
        self.x_embedder = nn.Linear(channels, hidden)
        self.t_embedder = TimestepEmbedder(hidden, time_width)
        self.text_projector = nn.Linear(text_width + patient_width, hidden)
        self.ib_projector = nn.Linear(base_width, hidden)
        self.blocks = nn.ModuleList(AttentionBlock(hidden, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, channels))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text_embed: Tensor,
        text_mask: Tensor | None,
        patient: Tensor,
        base_vector: Tensor,
    ) -> Tensor:
        """Predict epsilon (B, channels, length). Arguments as in `ecgtwin.DiT.forward`."""
        c = self.t_embedder(t) + self.ib_projector(base_vector)
        h = rotary(self.x_embedder(x.transpose(1, 2))) + c.unsqueeze(1)
        tokens = self.text_projector(statement_tokens(text_embed, patient))
        for block in self.blocks:
            h = block(h, tokens, text_mask)
        return self.final_layer(h).transpose(1, 2)
