"""`ecgtwin-fast reproduce`: all stages of a run folder, then the evaluation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import NOTICE
from .arguments import SAMPLERS
from .train import STAGES, run_options

if TYPE_CHECKING:
    from ..evaluation.report import EvaluationConfig

_EVALUATIONS = {
    "paper": {"count": 1000, "sampler": "ddpm", "steps": 1000},
    "small": {"count": 200, "sampler": SAMPLERS[0], "steps": 25},
    "smoke": {"count": 16, "sampler": SAMPLERS[0], "steps": 4},
}
_EPILOG = f"""\
It trains autoencoder, extractor and denoiser, then clip, the ECG-text encoder of the metrics, and writes

  OUT/autoencoder, extractor, denoiser, clip   configuration, weights, loss curves, checkpoints
  OUT/model                                    the model, for `ecgtwin-fast generate --model OUT/model`
  OUT/report/report.html and report.json       metrics of twins of the store's test patients, pictures, loss curves

What is finished is skipped when the same command is given again. A run that was stopped or killed goes on where
its last checkpoint was with --resume, and ends with the same numbers as one that was not.

examples:
  See it run, on simulated patients, in a minute or two:
    ecgtwin-fast prepare simulated 100 store
    ecgtwin-fast reproduce store run --preset smoke

  The paper on MIMIC-IV-ECG, on four GPUs:
    ecgtwin-fast prepare mimic-iv-ecg path/to/mimic-iv-ecg store
    torchrun --nproc-per-node 4 -m ecgtwin_fast reproduce store run --resume

  Other values of a stage, and of the evaluation:
    ecgtwin-fast reproduce store run --preset small --set extractor.gradient_caching=true --count 50

{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "reproduce",
        help="train all stages, evaluate, and write one report",
        description="Reproduce the paper on a prepared store: all trainings, the evaluation, one report.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_reproduce)
    run_options(parser)
    parser.add_argument(
        "--config", type=Path, metavar="F", help="JSON or YAML with a section a stage, put over the preset"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE",
        help="one value, such as denoiser.loop.steps=100; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, metavar="N", help=f"test patients to evaluate, at most {_by_preset('count')}"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, help=f"of their twins {_by_preset('sampler')}")
    parser.add_argument("--steps", type=int, metavar="N", help=f"of the sampler, 1..1000 {_by_preset('steps')}")


def _by_preset(name: str) -> str:
    return f"(default {', '.join(f'{preset}: {values[name]}' for preset, values in _EVALUATIONS.items())})"


def _reproduce(given: argparse.Namespace) -> None:
    from ..data.store import Store
    from ..evaluation.report import EvaluationConfig
    from ..evaluation.twins import choose_cases
    from ..training.configs import stage_config
    from ..training.distributed import processes
    from ..training.loop import Interrupted
    from ..training.run import train_stage

    # Whatever is wrong with the values is found before the first stage trains.
    overrides = _by_stage(given.set, given.seed)
    configs = {stage: stage_config(stage, given.preset, given.config, overrides[stage]) for stage in STAGES}
    chosen = {name: getattr(given, name) for name in ("count", "sampler", "steps", "seed")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    evaluation = EvaluationConfig(**{**_EVALUATIONS[given.preset], **chosen})
    store = Store(given.store)
    choose_cases(store, evaluation.count, evaluation.seed)
    try:
        # One group of processes for all stages: a second one that meets at the same store may wait for ever.
        with processes(given.device) as here:
            for stage, config in configs.items():
                train_stage(stage, store, given.out, config, given.device, given.resume)
    except Interrupted as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr)
        raise SystemExit(130) from None
    if here.first:
        _evaluate(store, given.out, evaluation, given.device)


def _evaluate(store, out: Path, config: EvaluationConfig, device: str | None) -> None:
    """Write the report, unless it is there for this configuration."""
    from ..evaluation.report import FOLDER, PAGE, REPORT, evaluate
    from ..training.checkpoint import read_json
    from ..training.run import MODEL, load_trained

    folder = out / FOLDER
    if (folder / REPORT).is_file() and config.to_json().items() <= read_json(folder / REPORT)["settings"].items():
        print(f"evaluation: done already: {folder / PAGE}", file=sys.stderr)
        return
    report = evaluate(out / MODEL, load_trained(out, "clip"), store, out, config, device)
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"report: {folder / PAGE}")
    print(NOTICE)


def _by_stage(overrides: Sequence[str], seed: int | None) -> dict[str, list[str]]:
    """KEY=VALUE of each stage."""
    from ..training.configs import ConfigError

    found: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for override in overrides:
        stage, _, rest = override.partition(".")
        if stage not in found:
            raise ConfigError(f"--set {override}: expected STAGE.KEY=VALUE, where STAGE is one of {', '.join(STAGES)}")
        found[stage].append(rest)
    if seed is not None:
        for values in found.values():
            values.append(f"loop.seed={seed}")
    return found
