"""The U-Net ablation of ECGTwin's paper (arXiv 2508.02720): DiffuSETS's frame with AdaX in every block."""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch.nn import functional as F

from .baselines import gelu_mlp, statement_tokens
from .diffusets import WIDTHS, UNet
from .ecgtwin import CrossAttention, PositionEncoding, TimestepEmbedder, modulate


class Injector(nn.Module):
    """AdaX with its own projections of time, base vector and statements, to which blocks add their convolutions."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        mlp_hidden: int,
        token_width: int,
        base_width: int,
        max_tokens: int,
        time_width: int,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.time_emb = TimestepEmbedder(hidden, time_width)
        self.ib_projector = nn.Linear(base_width, hidden)
        self.text_projector = nn.Linear(token_width, hidden)
        self.c_pos_emb = PositionEncoding(hidden, max_tokens)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))
        self.attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.c_attn = CrossAttention(hidden, heads)
        self.mlp = gelu_mlp(hidden, mlp_hidden)

    def inject(self, h: Tensor, t: Tensor, statements: Tensor, mask: Tensor | None, base: Tensor) -> Tensor:
        """h (B, hidden, L) to its shape; t (B,), statements (B, T, token_width), base (B, base_width).

        As in `ecgtwin.AdaXBlock`, but the input of the cross-attention's queries is not normed.
        """
        c = self.time_emb(t) + self.ib_projector(base)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        tokens = self.norm(self.c_pos_emb(self.text_projector(statements)))
        x = h.transpose(1, 2)
        h = modulate(self.norm(x), shift1, scale1)
        x = x + gate1.unsqueeze(1) * self.attn(h, h, h, need_weights=False)[0]
        x = x + self.c_attn(x, tokens, mask)[0]
        x = x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm(x), shift2, scale2))
        return x.transpose(1, 2)


class Block(Injector):
    """Block of a level: (B, channels_in, L) to (B, channels_out, L), AdaX at twice the input's channels."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, heads: int, mlp_ratio: int, **sizes: int):
        hidden = 2 * channels_in
        super().__init__(hidden, heads, mlp_ratio * hidden, **sizes)
        self.pre_shortcut_convs = nn.Conv1d(channels_in, hidden, kernel, padding="same")
        self.norm1 = nn.GroupNorm(1, hidden)
        self.shortcut_convs = nn.Conv1d(hidden, hidden, 1)
        self.post_shortcut_convs = nn.Conv1d(hidden, channels_out, kernel, padding="same")
        same = channels_in == channels_out
        self.res_conv = nn.Identity() if same else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, *conditions) -> Tensor:
        h = self.shortcut_convs(F.mish(self.norm1(self.pre_shortcut_convs(x))))
        h = self.post_shortcut_convs(self.inject(h, *conditions))
        return F.mish(h) + self.res_conv(x)


class Bottleneck(Injector):
    """Two convolutions, AdaX and a residual at one width (B, channels, L)."""

    def __init__(self, channels: int, kernel: int, heads: int, mlp_hidden: int, **sizes: int):
        super().__init__(channels, heads, mlp_hidden, **sizes)
        self.bottleneck_conv1 = nn.Conv1d(channels, channels, kernel, padding="same")
        self.bottleneck_norm1 = nn.GroupNorm(1, channels)
        self.bottleneck_conv2 = nn.Conv1d(channels, channels, kernel, padding="same")

    def forward(self, x: Tensor, *conditions) -> Tensor:
        h = self.bottleneck_conv2(F.mish(self.bottleneck_norm1(self.bottleneck_conv1(x))))
        return F.mish(self.inject(h, *conditions)) + x


class UNetAdaX(UNet):
    """Ablation with a U-Net in the transformer's place: predicts the noise epsilon in a latent.

    Args:
        channels, length: shape of a latent.
        widths: channels of the levels, each of which halves the length.
        kernel: of the convolutions. heads, mlp_ratio: of the levels' AdaX.
        bottleneck_heads, bottleneck_mlp: heads and hidden width of the bottleneck's AdaX.
        text_width, patient_width, base_width: widths of a statement, the patient vector and the base vector.
        max_tokens: most statements in a report. time_width: width of the timestep sinusoid.
    """

    def __init__(
        self,
        channels: int = 4,
        length: int = 128,
        widths: tuple[int, ...] = WIDTHS,
        kernel: int = 7,
        heads: int = 8,
        mlp_ratio: int = 4,
        bottleneck_heads: int = 4,
        bottleneck_mlp: int = 32,
        text_width: int = 768,
        patient_width: int = 3,
        base_width: int = 256,
        max_tokens: int = 100,
        time_width: int = 256,
    ):
        shared = {
            "kernel": kernel,
            "token_width": text_width + patient_width,
            "base_width": base_width,
            "max_tokens": max_tokens,
            "time_width": time_width,
        }
        block = functools.partial(Block, heads=heads, mlp_ratio=mlp_ratio, **shared)
        bottleneck = Bottleneck(widths[-1], heads=bottleneck_heads, mlp_hidden=bottleneck_mlp, **shared)
        super().__init__(block, bottleneck, channels, length, widths)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text_embed: Tensor,
        text_mask: Tensor | None,
        patient: Tensor,
        base_vector: Tensor,
    ) -> Tensor:
        """Predict epsilon (B, channels, length), the length a multiple of 2^levels.

        Arguments as in `ecgtwin.DiT.forward`.
        """
        return self.denoise(x, t, statement_tokens(text_embed, patient), text_mask, base_vector)
