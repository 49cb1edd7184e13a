"""The ECG-text encoder of the benchmark's metrics: CLIP on ECGs and reports (arXiv 2501.05932).

The ECG side is Net1D, a grouped pre-activation residual network with squeeze-and-excitation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv(nn.Module):
    """Convolution (B, C, L) to (B, C', ceil(L / stride)): zeros on both sides, the odd one on the right."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        length, (kernel,), (stride,) = x.shape[-1], self.conv.kernel_size, self.conv.stride
        total = max(0, (math.ceil(length / stride) - 1) * stride + kernel - length)
        return self.conv(F.pad(x, (total // 2, total - total // 2)))


class Net1DBlock(nn.Module):
    """Three pre-activated convolutions, the middle one grouped, squeeze-and-excitation, and the shortcut.

    (B, channels_in, L) to (B, channels_out, ceil(L / stride)). `activated`: norm, Swish and dropout precede
    the first convolution too. Not so in the network's first block, whose unused norm is in the checkpoints.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        activated: bool,
        kernel: int,
        group_width: int,
        dropout: float,
    ):
        super().__init__()
        self.stride, self.growth, self.activated = stride, channels_out - channels_in, activated
        self.dropout = nn.Dropout(dropout)
        self.bn1 = nn.BatchNorm1d(channels_in)
        self.conv1 = SameConv(channels_in, channels_out, 1)
        self.bn2 = nn.BatchNorm1d(channels_out)
        self.conv2 = SameConv(channels_out, channels_out, kernel, stride, groups=channels_out // group_width)
        self.bn3 = nn.BatchNorm1d(channels_out)
        self.conv3 = SameConv(channels_out, channels_out, 1)
        self.se_fc1 = nn.Linear(channels_out, channels_out // 2)
        self.se_fc2 = nn.Linear(channels_out // 2, channels_out)

    def _shortcut(self, x: Tensor) -> Tensor:
        """x pooled where the block strides, its new channels zero (the smaller half of them before)."""
        if self.stride > 1:
            x = F.max_pool1d(F.pad(x, (0, self.stride - 1)), self.stride)
        before = self.growth // 2
        return F.pad(x, (0, 0, before, self.growth - before))

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(F.silu(self.bn1(x))) if self.activated else x
        h = self.conv1(h)
        h = self.conv2(self.dropout(F.silu(self.bn2(h))))
        h = self.conv3(self.dropout(F.silu(self.bn3(h))))
        excitation = self.se_fc2(F.silu(self.se_fc1(h.mean(dim=-1)))).sigmoid()
        return h * excitation.unsqueeze(-1) + self._shortcut(x)


class Net1DStage(nn.Module):
    """Blocks of one width, the first of which halves the length. `block` makes one as `Net1DBlock` does."""

    def __init__(
        self,
        block: Callable[..., Net1DBlock],
        channels_in: int,
        channels_out: int,
        blocks: int,
        activated: bool,
    ):
        super().__init__()
        self.block_list = nn.ModuleList([block(channels_in, channels_out, stride=2, activated=activated)])
        for _ in range(blocks - 1):
            self.block_list.append(block(channels_out, channels_out, stride=1, activated=True))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    """ECG (B, leads, samples) to features (B, widths[-1]), the mean over what length remains."""

    def __init__(
        self,
        leads: int,
        stem: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        kernel: int,
        group_width: int,
        dropout: float,
    ):
        super().__init__()
        self.first_conv = SameConv(leads, stem, kernel, stride=2)
        self.first_bn = nn.BatchNorm1d(stem)
        block = functools.partial(Net1DBlock, kernel=kernel, group_width=group_width, dropout=dropout)
        stages = zip((stem, *widths[:-1]), widths, blocks, strict=True)
        self.stage_list = nn.ModuleList(
            Net1DStage(block, before, width, count, activated=index > 0)
            for index, (before, width, count) in enumerate(stages)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.first_bn(self.first_conv(x)))
        for stage in self.stage_list:
            h = stage(h)
        return h.mean(dim=-1)


class TextProjector(nn.Module):
    """Report embedding (B, text_width) to (B, width)."""

    def __init__(self, text_width: int, hidden: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(text_width, hidden)
        self.linear_2 = nn.Linear(hidden, width)

    def forward(self, text_embed: Tensor) -> Tensor:
        return self.linear_2(F.relu(self.linear_1(text_embed)))


class ECGTextEncoder(nn.Module):
    """ECGs and reports in one space: symmetric cross-entropy over cosines times exp(logit_scale) trains it.

    Args:
        width: of the shared space. leads: of the ECG.
        text_width, text_hidden: widths of a report's embedding and of the text MLP.
        stem: channels after the first convolution, which halves the length.
        widths, blocks: channels and number of blocks of the stages, each of which halves the length.
        kernel: of all convolutions but the 1x1. group_width: channels of a group; must divide every width.
        dropout: inside the blocks, while training.
    """

    def __init__(
        self,
        width: int = 64,
        leads: int = 12,
        text_width: int = 768,
        text_hidden: int = 2048,
        stem: int = 64,
        widths: tuple[int, ...] = (64, 128, 128, 256, 256, 512, 1024),
        blocks: tuple[int, ...] = (2, 2, 2, 3, 3, 4, 4),
        kernel: int = 16,
        group_width: int = 16,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.resnet = Net1D(leads, stem, widths, blocks, kernel, group_width, dropout)
        self.ecg_projector = nn.Linear(widths[-1], width)
        self.text_projector = TextProjector(text_width, text_hidden, width)

    def encode_signal(self, signal: Tensor) -> Tensor:
        """ECGs (B, samples, leads) in mV to (B, width), not normalised."""
        return self.ecg_projector(self.resnet(signal.transpose(1, 2)))

    def encode_text(self, text_embed: Tensor) -> Tensor:
        """Reports (B, text_width), the means of their statements, to (B, width), not normalised."""
        return self.text_projector(text_embed)

    def forward(self, signal: Tensor, text_embed: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides: `encode_signal(signal)` and `encode_text(text_embed)`."""
        return self.encode_signal(signal), self.encode_text(text_embed)
