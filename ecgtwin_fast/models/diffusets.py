"""DiffuSETS: a text-conditioned U-Net on latents, with no reference ECG (arXiv 2501.05932).

`UNet` is the convolutional frame alone: levels that halve the length, a bottleneck, levels that double it and
take the skips. What happens inside a level is its block's matter, so that `unet_adax` shares the frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (8, 16, 32, 64, 128, 256)


class DownLevel(nn.Module):
    """A block, whose output is the skip, then a convolution that halves the length."""

    def __init__(self, block: nn.Module, width: int):
        super().__init__()
        self.down = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.block = block

    def forward(self, x: Tensor, *conditions) -> tuple[Tensor, Tensor]:
        skip = self.block(x, *conditions)
        return self.down(skip), skip


class UpLevel(nn.Module):
    """A transposed convolution that doubles the length, the skip's channels appended, then a block."""

    def __init__(self, block: nn.Module, width: int):
        super().__init__()
        self.block = block
        self.up = nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None, *conditions) -> Tensor:
        x = self.up(x)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.block(x, *conditions)


class UNet(nn.Module):
    """The frame: (B, channels, L) to the same shape. The deepest level has no skip.

    Args:
        block: block(channels_in, channels_out) makes a level's block.
        bottleneck: keeps its input's shape (B, widths[-1], L / 2^levels).
            Both are called with x and the conditions that `denoise` was given.
        channels, length: shape of a latent. widths: of the levels, each of which halves the length.
    """

    def __init__(
        self,
        block: Callable[[int, int], nn.Module],
        bottleneck: nn.Module,
        channels: int,
        length: int,
        widths: tuple[int, ...],
    ):
        super().__init__()
        self.channels, self.length = channels, length
        levels = list(zip((channels, *widths[:-1]), widths, strict=True))
        self.downsampling_blocks = nn.ModuleList(DownLevel(block(outer, width), width) for outer, width in levels)
        self.bottelneck = bottleneck  # spelled so in the published state dict
        *shallower, (outer, deepest) = levels
        self.upsampling_blocks = nn.ModuleList([UpLevel(block(deepest, outer), deepest)])
        for outer, width in reversed(shallower):
            self.upsampling_blocks.append(UpLevel(block(2 * width, outer), width))
        self.output_conv = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=1), nn.Mish(), nn.Conv1d(channels, channels, 1)
        )

    def denoise(self, x: Tensor, *conditions) -> Tensor:
        """x (B, channels, L) through all levels; ValueError unless L is a multiple of 2^levels."""
        factor = 2 ** len(self.downsampling_blocks)
        if x.shape[-1] % factor:
            raise ValueError(f"a length of {x.shape[-1]}, but the U-Net needs a multiple of {factor}")
        skips: list[Tensor | None] = []
        for level in self.downsampling_blocks:
            x, skip = level(x, *conditions)
            skips.append(skip)
        x = self.bottelneck(x, *conditions)
        skips[-1] = None
        for level in self.upsampling_blocks:
            x = level(x, skips.pop(), *conditions)
        return self.output_conv(x)


class TimeTable(nn.Module):
    """Timesteps (B,) to an offset (B, channels, 1): a constant table of sines and cosines, then an MLP."""

    def __init__(self, channels: int, steps: int = 1000, width: int = 64, hidden: int = 128):
        super().__init__()
        half = width // 2
        frequency = torch.exp(-10 / (half - 1) * torch.arange(half, dtype=torch.float32))
        angle = torch.arange(1, steps + 1, dtype=torch.float32)[:, None] * frequency
        self.register_buffer("embeddings", torch.cat([angle.sin(), angle.cos()], dim=-1))
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, t: Tensor) -> Tensor:
        return self.fc2(F.mish(self.fc1(self.embeddings[t]))).unsqueeze(-1)


class ProjectedAttention(nn.Module):
    """Multi-head attention at a width of its own, between linear layers from and to the channels."""

    def __init__(self, channels: int, hidden: int, heads: int):
        super().__init__()
        self.to_q = nn.Linear(channels, hidden)
        self.to_k = nn.Linear(channels, hidden)
        self.to_v = nn.Linear(channels, hidden)
        self.attention = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.to_out = nn.Linear(hidden, channels)

    def attend(self, x: Tensor, context: Tensor) -> Tensor:
        attended, _ = self.attention(self.to_q(x), self.to_k(context), self.to_v(context), need_weights=False)
        return self.to_out(attended)


class SelfAttention(ProjectedAttention):
    """x (B, L, channels) plus attention to itself."""

    def __init__(self, channels: int, hidden: int, heads: int):
        super().__init__(channels, hidden, heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.attend(h, h)


class ConditionAttention(ProjectedAttention):
    """x (B, L, channels) plus attention to the one condition token (B, 1, condition_width).

    The paper repeats the token to the length; equal keys weigh equally, so one key gives the same.
    """

    def __init__(self, channels: int, hidden: int, heads: int, condition_width: int):
        super().__init__(channels, hidden, heads)
        self.normalization = nn.LayerNorm(channels)
        self.value_combiner = nn.Linear(condition_width, channels)
        self.condition_normalization = nn.LayerNorm(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        token = self.condition_normalization(self.value_combiner(condition))
        return x + self.attend(self.normalization(x), token)


class AttentionPair(nn.Module):
    """What a level's block and the bottleneck share: the time, and both attentions followed by a norm."""

    def __init__(self, channels_in: int, channels: int, hidden: int, heads: int, condition_width: int):
        super().__init__()
        self.self_attention = SelfAttention(channels, hidden, heads)
        self.cross_attention = ConditionAttention(channels, hidden, heads, condition_width)
        self.attention_norm = nn.LayerNorm(channels)
        self.time_emb = TimeTable(channels_in)

    def attend(self, h: Tensor, condition: Tensor) -> Tensor:
        """h (B, channels, L) to the same shape."""
        h = self.self_attention(h.transpose(1, 2))
        return self.attention_norm(self.cross_attention(h, condition)).transpose(1, 2)


Attend = Callable[[AttentionPair, Tensor, Tensor], Tensor]
"""`AttentionPair.attend`, or what a faster path puts in its place."""


class Block(AttentionPair):
    """Block of a level: (B, channels_in, L) to (B, channels_out, L), plus its input from before the time.

    The published checkpoints hold a convolution `down` in every block, which is never applied.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, heads: int, condition_width: int):
        middle = (channels_in + channels_out) // 2
        super().__init__(channels_in, middle, 2 * channels_in, heads, condition_width)
        self.pre_shortcut_convs = nn.Conv1d(channels_in, middle, kernel, padding="same")
        self.layer_norm1 = nn.GroupNorm(1, middle)
        self.shortcut_convs = nn.Conv1d(middle, middle, 1)
        self.post_shortcut_convs = nn.Conv1d(middle, channels_out, kernel, padding="same")
        self.layer_norm2 = nn.GroupNorm(1, channels_out)
        same = channels_in == channels_out
        self.res_conv = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)
        self.down = nn.Conv1d(channels_out, channels_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, attend: Attend | None = None) -> Tensor:
        h = self.pre_shortcut_convs(x + self.time_emb(t))
        h = self.shortcut_convs(F.mish(self.layer_norm1(h)))
        h = self.post_shortcut_convs((attend or AttentionPair.attend)(self, h, condition))
        return F.mish(self.layer_norm2(h)) + self.res_conv(x)


class Bottleneck(AttentionPair):
    """As `Block`, at one width (B, channels, L) throughout and with kernel 3."""

    def __init__(self, channels: int, hidden: int, heads: int, condition_width: int):
        super().__init__(channels, channels, hidden, heads, condition_width)
        self.bottleneck_conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.bottleneck_layer_norm1 = nn.GroupNorm(1, channels)
        self.bottleneck_conv1_2 = nn.Conv1d(channels, channels, 3, padding=1)
        self.bottleneck_conv2 = nn.Conv1d(channels, channels, 3, padding=1)
        self.bottleneck_layer_norm2 = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, attend: Attend | None = None) -> Tensor:
        h = self.bottleneck_conv1(x + self.time_emb(t))
        h = self.bottleneck_conv1_2(F.mish(self.bottleneck_layer_norm1(h)))
        h = self.bottleneck_conv2((attend or AttentionPair.attend)(self, h, condition))
        return F.mish(self.bottleneck_layer_norm2(h)) + x


class DiffuSETSUNet(UNet):
    """DiffuSETS's denoiser: predicts the noise in a latent under a text prompt and the patient's numbers.

    Args:
        channels, length: shape of a latent; 12 and 1024 for the variant on raw ECGs.
        widths: channels of the levels, each of which halves the length. kernel: of the levels' convolutions.
        heads: of the levels' attentions, which are twice as wide as their block's input.
        bottleneck_hidden, bottleneck_heads: width and heads of the bottleneck's attentions.
        text_width: width of the prompt's embedding.
        patient_keys: entries of `condition` that join the prompt, in order; () for the variant without them.
        clip_sample_range: largest value of a clean latent, at which the clipping samplers clip their prediction of it.
    """

    def __init__(
        self,
        channels: int = 4,
        length: int = 128,
        widths: tuple[int, ...] = WIDTHS,
        kernel: int = 7,
        heads: int = 8,
        bottleneck_hidden: int = 32,
        bottleneck_heads: int = 4,
        text_width: int = 1536,
        patient_keys: tuple[str, ...] = ("gender", "age", "heart rate"),
        clip_sample_range: float = 1.0,
    ):
        condition_width = text_width + len(patient_keys)
        block = functools.partial(Block, kernel=kernel, heads=heads, condition_width=condition_width)
        bottleneck = Bottleneck(widths[-1], bottleneck_hidden, bottleneck_heads, condition_width)
        super().__init__(block, bottleneck, channels, length, widths)
        self.patient_keys, self.clip_sample_range = patient_keys, clip_sample_range

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text_embed: Tensor,
        condition: dict[str, Tensor],
        attend: Attend | None = None,
    ) -> Tensor:
        """Predict epsilon.

        Args:
            x: noisy latents (B, channels, L), L a multiple of 2^levels. t: timesteps (B,), integers 0..999.
            text_embed: the prompt's embedding (B, 1, text_width).
            condition: 'gender' (0 female, 1 male), 'age' (years) and 'heart rate' (bpm), not normalised, each
                (B, 1, 1).
            attend: in place of the attentions' own arithmetic.

        Returns:
            epsilon (B, channels, L).
        """
        patient = [condition[key].to(text_embed.dtype) for key in self.patient_keys]
        return self.denoise(x, t, torch.cat([text_embed, *patient], dim=-1), attend)
