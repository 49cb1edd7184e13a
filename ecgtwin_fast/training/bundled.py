"""Trains a small model from nothing: `python -m ecgtwin_fast.training.bundled --help`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import models
from ..data.ptbxl import ptbxl_root
from ..data.text import text_encoder
from ..pretrained import ModelConfig, write_model
from .autoencoder import encode, standardise, train_autoencoder
from .cohort import build_cohort
from .diffusion import initialise, train_denoiser
from .extractor import base_vectors, train_extractor
from .loop import LoopConfig

TEXT_ENCODER, TEXT_WIDTH = "hash", 768
CARD = Path(__file__).with_name("bundled_card.md")


@dataclass(frozen=True)
class BundledConfig:
    """Sizes and schedules of the bundled model."""

    simulated: int = 9_000
    variants: int = 10
    max_tokens: int = 8
    autoencoder_sizes: dict = field(default_factory=lambda: {"widths": (32, 64, 128, 128), "groups": 8})
    extractor_sizes: dict = field(
        default_factory=lambda: {"hidden": 128, "layers": 2, "heads": 4, "feed_forward": 512, "float_mask": False}
    )
    denoiser_sizes: dict = field(
        default_factory=lambda: {"hidden": 128, "depth": 6, "heads": 4, "base_width": 128, "clip_sample_range": 6.0}
    )
    autoencoder: LoopConfig = LoopConfig(
        steps=4200, batch=32, learning_rate=1e-3, final_learning_rate=2e-5, weight_decay=1e-4, ema=0.998, clip=100.0
    )
    extractor: LoopConfig = LoopConfig(steps=400, batch=160, learning_rate=1e-3, weight_decay=1e-3)
    denoiser: LoopConfig = LoopConfig(
        steps=8_000,
        batch=32,
        learning_rate=1e-3,
        final_learning_rate=2e-5,
        warmup=300,
        weight_decay=1e-4,
        ema=0.999,
        clip=500.0,
    )
    snr_gamma: float = 1.0
    focus: tuple[int, int] = (50, 700)


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
        text_encoder(TEXT_ENCODER, TEXT_WIDTH), config.simulated, ptbxl, config.variants, config.max_tokens, seed
    )
    encoder, decoder = train_autoencoder(encoder, decoder, cohort, config.autoencoder, out / "autoencoder.pt")
    mean, deviation = encode(encoder, cohort)
    scale, offset = standardise(encoder, decoder, mean)
    mean = mean * scale[:, None] + offset[:, None]
    deviation = deviation * scale[:, None]
    extractor = train_extractor(extractor, mean, cohort, config.extractor, out / "extractor.pt")
    bases = base_vectors(extractor, mean, cohort)
    denoiser = train_denoiser(
        denoiser,
        (mean, deviation),
        bases,
        cohort,
        config.denoiser,
        out / "denoiser.pt",
        snr_gamma=config.snr_gamma,
        focus=config.focus,
    )
    return {"encoder": encoder, "decoder": decoder, "extractor": extractor, "denoiser": denoiser}


def main(arguments: list[str] | None = None) -> None:
    """Command line: trains, then writes a model directory with 16-bit weights."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgtwin_fast.training.bundled",
        description="Train autoencoder, extractor and denoiser of a small model on simulated patients and, where "
        "ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) holds PTB-XL, on its patients outside the test fold. About two "
        "hours on two cores. Interrupted, it goes on at the last checkpoint when called again.",
    )
    parser.add_argument("out", type=Path, help="model directory to write")
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="checkpoints (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of tiny networks: shows that it runs")
    given = parser.parse_args(arguments)
    config = SMOKE if given.smoke else BundledConfig()
    ptbxl = ptbxl_root()
    print(f"real records: {ptbxl or 'none (set ECGTWIN_PTBXL)'}")
    networks = train(config, given.work, ptbxl, given.seed)
    sizes = {
        "encoder": config.autoencoder_sizes,
        "decoder": config.autoencoder_sizes,
        "extractor": config.extractor_sizes,
        "denoiser": config.denoiser_sizes,
    }
    states = {role: network.state_dict() for role, network in networks.items()}
    model = ModelConfig(sizes, TEXT_ENCODER, TEXT_WIDTH)
    write_model(given.out, model, states, CARD.read_text(encoding="utf-8"), torch.float16)
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
