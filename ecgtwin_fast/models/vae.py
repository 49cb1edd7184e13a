"""The 1-D variational autoencoder that ECGTwin and DiffuSETS share (arXiv 2501.05932, after Stable Diffusion's).

An ECG (B, 1024, 12) in mV becomes a latent (B, 4, 128) and back. Parameter names are positions in one flat list.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_SCALE = 0.18215


class Residual(nn.Module):
    """GroupNorm - SiLU - conv, twice, plus the identity or a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, groups: int):
        super().__init__()
        self.groupnorm_1 = nn.GroupNorm(groups, channels_in)
        self.conv_1 = nn.Conv1d(channels_in, channels_out, 3, padding=1)
        self.groupnorm_2 = nn.GroupNorm(groups, channels_out)
        self.conv_2 = nn.Conv1d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.residual_layer = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.groupnorm_1(x)))
        h = self.conv_2(F.silu(self.groupnorm_2(h)))
        return h + self.residual_layer(x)


class SelfAttention(nn.Module):
    """Single-head attention over positions (B, L, D)."""

    def __init__(self, channels: int):
        super().__init__()
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.in_proj(x).chunk(3, dim=-1)
        maps = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return self.out_proj(maps @ value)


class AttentionResidual(nn.Module):
    """x + self-attention over the length. The GroupNorm is in the published checkpoints and is never applied."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.groupnorm = nn.GroupNorm(groups, channels)
        self.attention = SelfAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x.transpose(1, 2)).transpose(1, 2)


class Downsample(nn.Conv1d):
    """Convolution of stride 2 after one zero on the right."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1)))


class Encoder(nn.Sequential):
    """ECG (B, 1024, leads) in mV to a scaled latent (B, latent, 128).

    Args:
        leads: channels of the ECG. widths: channels of the four levels (three of them halve the length).
        latent: channels of the latent. groups: of every GroupNorm.
    """

    def __init__(
        self, leads: int = 12, widths: tuple[int, ...] = (128, 256, 512, 512), latent: int = 4, groups: int = 32
    ):
        layers: list[nn.Module] = [nn.Conv1d(leads, widths[0], 3, padding=1)]
        before = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers.append(Downsample(before))
            layers += [Residual(before, width, groups), Residual(width, width, groups)]
            before = width
        layers += [
            Residual(before, before, groups),
            AttentionResidual(before, groups),
            Residual(before, before, groups),
        ]
        layers += [nn.GroupNorm(groups, before), nn.SiLU()]
        layers += [nn.Conv1d(before, 2 * latent, 3, padding=1), nn.Conv1d(2 * latent, 2 * latent, 1)]
        super().__init__(*layers)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ECG (B, samples, leads) and standard normal noise (B, latent, samples/8) to (z, mean, log-variance).

        z = (mean + exp(logvar / 2) * noise) * 0.18215; mean and log-variance are not scaled.
        """
        mean, log_variance = super().forward(x.transpose(1, 2)).chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        return (mean + torch.exp(0.5 * log_variance) * noise) * LATENT_SCALE, mean, log_variance


class Decoder(nn.Sequential):
    """Scaled latent (B, latent, 128) to ECG (B, 1024, leads) in mV. Arguments as in `Encoder`."""

    def __init__(
        self, leads: int = 12, widths: tuple[int, ...] = (128, 256, 512, 512), latent: int = 4, groups: int = 32
    ):
        before = widths[-1]
        layers: list[nn.Module] = [nn.Conv1d(latent, latent, 1), nn.Conv1d(latent, before, 3, padding=1)]
        layers += [Residual(before, before, groups), AttentionResidual(before, groups)]
        layers += [Residual(before, before, groups) for _ in range(4)]
        for width in reversed(widths[:-1]):
            layers += [nn.Upsample(scale_factor=2), nn.Conv1d(before, before, 3, padding=1)]
            layers += [Residual(before, width, groups), Residual(width, width, groups), Residual(width, width, groups)]
            before = width
        layers += [nn.GroupNorm(groups, before), nn.SiLU(), nn.Conv1d(before, leads, 3, padding=1)]
        super().__init__(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z / LATENT_SCALE).transpose(1, 2)
