"""Trains a small model from nothing: `python -m ecgtwin_fast.training.bundled --help`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..data.ptbxl import ptbxl_root
from ..data.store import Store
from ..data.text import text_encoder
from .cohort import Cohort
from .configs import AutoencoderConfig, DenoiserConfig, ExtractorConfig, stage_config
from .run import train_stage, write_trained_model

TEXT_ENCODER, TEXT_WIDTH = "hash", 768
CARD = Path(__file__).with_name("bundled_card.md")
REAL_SHARES = {"autoencoder": 0.5, "denoiser": 0.35}


@dataclass(frozen=True)
class BundledConfig:
    """Data and schedules of the bundled model: the stages' preset, with real people drawn more often than they are."""

    simulated: int
    variants: int
    max_tokens: int
    autoencoder: AutoencoderConfig
    extractor: ExtractorConfig
    denoiser: DenoiserConfig

    @classmethod
    def of(cls, preset: str, simulated: int, variants: int, max_tokens: int = 8) -> BundledConfig:
        stages = {stage: stage_config(stage, preset) for stage in ("autoencoder", "extractor", "denoiser")}
        stages |= {stage: replace(stages[stage], real_share=share) for stage, share in REAL_SHARES.items()}
        return cls(simulated, variants, max_tokens, **stages)


FULL = BundledConfig.of("small", simulated=9_000, variants=10)
SMOKE = BundledConfig.of("smoke", simulated=16, variants=1)
"""Seconds instead of hours: shows that all stages run."""


def train(
    config: BundledConfig, out: Path, ptbxl: Path | None, seed: int = 0
) -> tuple[Store, dict[str, torch.nn.Module]]:
    """The cohort's store and all three stages in run folder `out`, what is there gone on with.

    Returns the store and the networks encoder, decoder, extractor, denoiser.
    """
    cohort = Cohort(config.simulated, ptbxl, config.variants, config.max_tokens, seed)
    store = cohort.store(out / "store", text_encoder(TEXT_ENCODER, TEXT_WIDTH))
    networks = {}
    for stage in ("autoencoder", "extractor", "denoiser"):
        settings = getattr(config, stage)
        settings = replace(settings, loop=replace(settings.loop, seed=seed))
        networks[stage] = train_stage(stage, store, out, settings, resume=True)
    autoencoder = networks.pop("autoencoder")
    return store, {"encoder": autoencoder.encoder, "decoder": autoencoder.decoder, **networks}


def main(arguments: list[str] | None = None) -> None:
    """Command line: trains, then writes a model directory with 16-bit weights."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgtwin_fast.training.bundled",
        description="Train autoencoder, extractor and denoiser of a small model on simulated patients and, where "
        "ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) holds PTB-XL, on its patients outside the test fold. About two "
        "hours on two cores. Interrupted, it goes on at the last checkpoint when called again.",
    )
    parser.add_argument("out", type=Path, help="model directory to write")
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="run folder (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of tiny networks: shows that it runs")
    given = parser.parse_args(arguments)
    ptbxl = ptbxl_root()
    print(f"real records: {ptbxl or 'none (set ECGTWIN_PTBXL)'}")
    store, _ = train(SMOKE if given.smoke else FULL, given.work, ptbxl, given.seed)
    write_trained_model(given.work, store, given.out, CARD.read_text(encoding="utf-8"), torch.float16)
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
