"""`ecgtwin-fast train`: one stage of a run folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import NOTICE
from .arguments import integer

STAGES = ("autoencoder", "extractor", "denoiser", "clip")
"""What the paper's reproduction trains."""
ALL_STAGES = (*STAGES, "diffusets")
PRESETS = ("paper", "small", "smoke")
_EPILOG = f"""\
stages, in this order; clip needs none of the others, diffusets the autoencoder alone:
  autoencoder   ECGs to latents and back (VAE)
  extractor     stage 1 of the paper: what stays of a patient (Individual Base Extractor)
  denoiser      stage 2 of the paper: the diffusion transformer; writes the model directory OUT/model
  clip          the ECG-text encoder that the metrics need
  diffusets     DiffuSETS's U-Net, which needs no reference ECG; writes the model directory OUT/diffusets-model

examples:
  ecgtwin-fast prepare simulated 2000 store
  for stage in autoencoder extractor denoiser; do ecgtwin-fast train $stage store run --preset small; done
  ecgtwin-fast generate --model run/model --reference ecg.hea --report "sinus tachycardia" --out out

  ecgtwin-fast train diffusets store run --preset small
  ecgtwin-fast generate --model run/diffusets-model --report "sinus tachycardia" \\
      --heart-rate 110 --age 60 --sex F --out out2

  Other values, from a file (JSON, YAML or the published YAML) and one by one:
    ecgtwin-fast train denoiser store run --config DiT_ECGTwin.yaml --set loop.ema=0.9999 --set snr_weight=min

  Four GPUs of one machine (or `accelerate launch -m`):
    torchrun --nproc-per-node 4 -m ecgtwin_fast train denoiser store run

Ctrl-C saves a checkpoint; the same command with --resume goes on, and ends with the same numbers as without a break.
Watch it with: tensorboard --logdir run
{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "train",
        help="train a stage on a store that `prepare` made",
        description="Train a stage of ECGTwin or DiffuSETS on a prepared store. Hyper-parameters are the published "
        "ones by default.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_train)
    parser.add_argument("stage", choices=ALL_STAGES, metavar="STAGE", help=", ".join(ALL_STAGES))
    run_options(parser)
    parser.add_argument("--config", type=Path, metavar="F", help="JSON or YAML with values to put over the preset")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one value, such as loop.steps=100; repeatable"
    )


def run_options(parser: argparse.ArgumentParser) -> None:
    """What is trained where, for one stage or all."""
    parser.add_argument("store", type=Path, metavar="STORE", help="folder that `ecgtwin-fast prepare` made")
    parser.add_argument("out", type=Path, metavar="OUT", help="run folder, the same for all stages")
    parser.add_argument(
        "--preset", choices=PRESETS, default="paper",
        help="paper: published sizes; small: hours on two cores; smoke: seconds, to see it run (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--seed", type=integer(0), metavar="N", help="of everything that is drawn (default 0)")


def _train(given: argparse.Namespace) -> None:
    from ..training.configs import stage_config
    from ..training.loop import Interrupted
    from ..training.run import train_stage

    overrides = [*given.set, *([] if given.seed is None else [f"loop.seed={given.seed}"])]
    config = stage_config(given.stage, given.preset, given.config, overrides)
    try:
        train_stage(given.stage, given.store, given.out, config, given.device, given.resume)
    except Interrupted as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr)
        raise SystemExit(130) from None
