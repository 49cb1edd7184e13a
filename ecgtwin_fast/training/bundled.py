"""Trains a small model from nothing: `python -m ecgtwin_fast.training.bundled OUT`.

Autoencoder, extractor and denoiser on simulated patients and, where ECGTWIN_PTBXL has them, PTB-XL's patients outside
the test fold. Interrupted, it goes on at the last checkpoint when called again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import models
from ..data.ptbxl import ptbxl_root
from ..data.text import text_encoder
from .autoencoder import encode, standardise, train_autoencoder
from .cohort import build_cohort
from .diffusion import initialise, train_denoiser
from .extractor import base_vectors, train_extractor
from .loop import LoopConfig

TEXT_WIDTH = 768


@dataclass(frozen=True)
class BundledConfig:
    """Sizes and schedules of the bundled model."""

    simulated: int = 12_000
    variants: int = 10
    max_tokens: int = 8
    autoencoder_sizes: dict = field(default_factory=lambda: {"widths": (32, 64, 128, 128), "groups": 8})
    extractor_sizes: dict = field(
        default_factory=lambda: {"hidden": 128, "layers": 2, "heads": 4, "feed_forward": 512, "float_mask": False}
    )
    denoiser_sizes: dict = field(default_factory=lambda: {"hidden": 192, "depth": 6, "heads": 6, "base_width": 128})
    autoencoder: LoopConfig = LoopConfig(
        steps=4200, batch=32, learning_rate=1e-3, final_learning_rate=2e-5, weight_decay=1e-4, ema=0.998, clip=100.0
    )
    extractor: LoopConfig = LoopConfig(steps=700, batch=192, learning_rate=1e-3, weight_decay=1e-3)
    denoiser: LoopConfig = LoopConfig(
        steps=4500,
        batch=64,
        learning_rate=8e-4,
        final_learning_rate=2e-5,
        warmup=200,
        weight_decay=1e-4,
        ema=0.998,
        clip=500.0,
    )


SMOKE = BundledConfig(
    simulated=1,
    variants=1,
    autoencoder_sizes={"widths": (16, 16, 16, 16), "groups": 4},
    extractor_sizes={"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32, "float_mask": False},
    denoiser_sizes={"hidden": 64, "depth": 1, "heads": 2, "base_width": 32},
    autoencoder=LoopConfig(steps=4, batch=4),
    extractor=LoopConfig(steps=4, batch=8),
    denoiser=LoopConfig(steps=4, batch=4, ema=0.9),
)
"""Seconds instead of hours: shows that all stages run."""


def train(config: BundledConfig, out: Path, ptbxl: Path | None, seed: int = 0) -> dict[str, torch.nn.Module]:
    """All three stages; checkpoints go to `out`. Returns the networks encoder, decoder, extractor, denoiser."""
    torch.manual_seed(seed)
    encoder = models.create("enc", **config.autoencoder_sizes)
    decoder = models.create("dec", **config.autoencoder_sizes)
    extractor = models.create("ibe", **config.extractor_sizes)
    denoiser = models.create("dit", **config.denoiser_sizes)
    initialise(denoiser)
    cohort = build_cohort(
        text_encoder("hash", TEXT_WIDTH), config.simulated, ptbxl, config.variants, config.max_tokens, seed
    )
    encoder, decoder = train_autoencoder(encoder, decoder, cohort, config.autoencoder, out / "autoencoder.pt")
    mean, deviation = encode(encoder, cohort)
    scale, offset = standardise(encoder, decoder, mean)
    mean = mean * scale[:, None] + offset[:, None]
    deviation = deviation * scale[:, None]
    extractor = train_extractor(extractor, mean, cohort, config.extractor, out / "extractor.pt")
    bases = base_vectors(extractor, mean, cohort)
    denoiser = train_denoiser(denoiser, (mean, deviation), bases, cohort, config.denoiser, out / "denoiser.pt")
    return {"encoder": encoder, "decoder": decoder, "extractor": extractor, "denoiser": denoiser}
