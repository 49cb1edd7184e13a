"""The Individual Base Extractor: what stays of a patient without the condition (arXiv 2508.02720, stage 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ecgtwin import rotary


class FeedForward(nn.Module):
    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden, width)
        self.fc2 = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class ExtractorLayer(nn.Module):
    """Self-attention adds, cross-attention to the condition subtracts (through a ReLU), feed-forward adds."""

    def __init__(self, hidden: int, heads: int, feed_forward: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.feed_forward = FeedForward(hidden, feed_forward)
        self.condition_norm = nn.LayerNorm(hidden)
        self.layer_norm1 = nn.LayerNorm(hidden)
        self.layer_norm2 = nn.LayerNorm(hidden)
        self.layer_norm3 = nn.LayerNorm(hidden)

    def forward(self, x: Tensor, condition: Tensor, padding: Tensor | None) -> Tensor:
        h = self.layer_norm1(x)
        x = x + self.self_attn(h, h, h, need_weights=False)[0]
        c = self.condition_norm(condition)
        h = self.layer_norm2(x)
        x = x - F.relu(self.cross_attn(h, c, c, key_padding_mask=padding, need_weights=False)[0])
        return x + self.feed_forward(self.layer_norm3(x))


class BaseExtractor(nn.Module):
    """Individual Base Extractor.

    Args:
        hidden: width of the base vector. layers, heads, feed_forward: sizes of the transformer.
        channels: channels of a latent. text_width, patient_width: widths of a statement's embedding and patient vector.
        float_mask: the published weights were trained with the mask *added* to the attention scores (+1 for a token,
            0 for padding, nothing excluded). True repeats that; False excludes padding.
    """

    def __init__(
        self,
        hidden: int = 256,
        layers: int = 3,
        heads: int = 8,
        feed_forward: int = 1024,
        channels: int = 4,
        text_width: int = 768,
        patient_width: int = 3,
        float_mask: bool = True,
    ):
        super().__init__()
        self.float_mask = float_mask
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.classfree_emb = nn.Parameter(0.02 * torch.randn(1, hidden))
        self.signal_embedding = nn.Linear(channels, hidden)
        self.text_projector = nn.Linear(text_width + patient_width, hidden)
        self.layers = nn.ModuleList(ExtractorLayer(hidden, heads, feed_forward) for _ in range(layers))

    def _condition(
        self, x: Tensor, text_embed: Tensor | None, mask: Tensor | None, patient: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if text_embed is None:
            return self.classfree_emb.expand(x.shape[0], 1, -1), None
        per_token = patient.unsqueeze(1).expand(-1, text_embed.shape[1], -1)
        tokens = self.text_projector(torch.cat([text_embed, per_token], dim=-1))
        if mask is None:
            return tokens, None
        return tokens, mask.to(tokens.dtype) if self.float_mask else mask == 0

    def extract_features(
        self,
        x: Tensor,
        text_embed: Tensor | None,
        mask: Tensor | None,
        patient: Tensor | None,
        reduce: bool = True,
    ) -> Tensor:
        """Base vectors (B, hidden) of latents x (B, length, channels) recorded under a condition.

        text_embed (B, T, text_width), mask (B, T) of ones and zeros or None, patient (B, patient_width); text_embed
        None means no condition: the learned class-free token stands in. reduce=False keeps the positions
        (B, length, hidden).
        """
        condition, padding = self._condition(x, text_embed, mask, patient)
        h = rotary(self.signal_embedding(x))
        for layer in self.layers:
            h = layer(h, condition, padding)
        return h.mean(dim=1) if reduce else h

    def forward(self, first: tuple, second: tuple) -> tuple[Tensor, Tensor]:
        """Contrastive logits of two views, each the arguments of `extract_features`: exp(logit_scale) * cosine (B, B)
        of the first against the second, and its transpose."""
        a = F.normalize(self.extract_features(*first), dim=-1)
        b = F.normalize(self.extract_features(*second), dim=-1)
        logits = self.logit_scale.exp() * a @ b.T
        return logits, logits.T
