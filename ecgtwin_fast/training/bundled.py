"""Trains the bundled models from nothing: `python -m ecgtwin_fast.training.bundled --help`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..data.ptbxl import ptbxl_root
from ..data.store import Store
from ..data.text import text_encoder
from ..pretrained import BUNDLED, BUNDLED_CLIP, BUNDLED_DIFFUSETS
from .checkpoint import NETWORK, write_weights
from .cohort import Cohort
from .configs import StageConfig, stage_config
from .loop import CONFIG, SUMMARY
from .run import PRODUCTS, load_trained, train_stage, write_trained_model

TEXT_ENCODER, TEXT_WIDTH = "hash", 768
CARDS = {kind: Path(__file__).with_name(f"{kind}_card.md") for kind in PRODUCTS}
FOLDERS = {"ecgtwin": BUNDLED, "diffusets": BUNDLED_DIFFUSETS}
SHARED = {"ecgtwin": {}, "diffusets": {"decoder": f"../{BUNDLED.name}/decoder.safetensors"}}
"""Both models have one decoder."""
STAGES = ("autoencoder", "extractor", "denoiser", "diffusets", "clip")
REAL_SHARES = {"autoencoder": 0.45, "denoiser": 0.35, "diffusets": 0.35}
"""Of a batch."""
STEPS = {"denoiser": 34_000, "diffusets": 19_000}
"""More than the preset's."""


@dataclass(frozen=True)
class BundledConfig:
    """Data and schedules of the bundled models: the stages' preset, with real people drawn more often than they are."""

    simulated: int
    variants: int
    stages: Mapping[str, StageConfig]
    max_tokens: int = 8

    @classmethod
    def of(cls, preset: str, simulated: int, variants: int) -> BundledConfig:
        stages = {stage: stage_config(stage, preset) for stage in STAGES}
        stages |= {stage: replace(stages[stage], real_share=share) for stage, share in REAL_SHARES.items()}
        return cls(simulated, variants, stages)

    def trained_for(self, steps: Mapping[str, int]) -> BundledConfig:
        """With other numbers of steps of these stages."""
        longer = {stage: replace(self.stages[stage].loop, steps=count) for stage, count in steps.items()}
        stages = {stage: replace(self.stages[stage], loop=loop) for stage, loop in longer.items()}
        return replace(self, stages=dict(self.stages) | stages)


FULL = BundledConfig.of("small", simulated=20_000, variants=10).trained_for(STEPS)
SMOKE = BundledConfig.of("smoke", simulated=16, variants=1)
"""Seconds instead of hours: shows that all stages run."""


def train(
    config: BundledConfig, out: Path, ptbxl: Path | None, seed: int = 0
) -> tuple[Store, dict[str, torch.nn.Module]]:
    """The cohort's store and all stages in run folder `out`, what is there gone on with.

    Returns the store and the networks by stage.
    """
    cohort = Cohort(config.simulated, ptbxl, config.variants, config.max_tokens, seed)
    store = cohort.store(out / "store", text_encoder(TEXT_ENCODER, TEXT_WIDTH))
    networks = {}
    for stage, settings in config.stages.items():
        settings = replace(settings, loop=replace(settings.loop, seed=seed))
        networks[stage] = train_stage(stage, store, out, settings, resume=True)
    return store, networks


def write_bundle(work: Path, store: Store, out: Path) -> list[Path]:
    """Write what run folder `work` trained as the package has it, 16-bit weights, in folders of `out`; returns them."""
    folders = []
    for kind, card in CARDS.items():
        folder = out / FOLDERS[kind].name
        text = card.read_text(encoding="utf-8")
        folders.append(write_trained_model(work, store, folder, text, torch.float16, kind, SHARED[kind]))
    clip = out / BUNDLED_CLIP.parent.name / BUNDLED_CLIP.name
    clip.mkdir(parents=True, exist_ok=True)
    write_weights(clip / NETWORK, load_trained(work, "clip").half())
    for name in (CONFIG, SUMMARY):
        shutil.copy(work / "clip" / name, clip / name)
    return [*folders, clip]


def main(arguments: list[str] | None = None) -> None:
    """Command line: trains, then writes the model directories with 16-bit weights."""
    parser = argparse.ArgumentParser(
        prog="python -m ecgtwin_fast.training.bundled",
        description="Train a small ECGTwin, a small DiffuSETS and the ECG-text encoder that judges them on simulated "
        "patients and, where ECGTWIN_PTBXL (default ../shared/ecg/ptb-xl) holds PTB-XL, on its patients outside the "
        "test fold. About five hours on two cores. Interrupted, it goes on at the last checkpoint when called again.",
    )
    parser.add_argument("out", type=Path, help="folder for the model directories, as the package has them")
    parser.add_argument("--work", type=Path, default=Path("runs/bundled"), help="run folder (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of tiny networks: shows that it runs")
    given = parser.parse_args(arguments)
    ptbxl = ptbxl_root()
    print(f"real records: {ptbxl or 'none (set ECGTWIN_PTBXL)'}")
    store, _ = train(SMOKE if given.smoke else FULL, given.work, ptbxl, given.seed)
    for folder in write_bundle(given.work, store, given.out):
        print(f"written: {folder}")


if __name__ == "__main__":
    main()
