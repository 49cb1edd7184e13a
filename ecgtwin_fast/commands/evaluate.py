"""`ecgtwin-fast evaluate`: how good generated ECGs are, beside real ones."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import NOTICE
from .arguments import SAMPLERS, integer

if TYPE_CHECKING:
    from torch import nn

    from ..evaluation.steps import Point
    from ..generator import Generator

_EPILOG = f"""\
Real records are those of the store's test fold, one of each patient. The report shows, for every generator, and
beside it for real records (the floor) and for real records wrongly assigned (the ceiling):

  signal     heart-rate error, intervals and axis, Einthoven's law, spectra
  features   FID, relative FID, precision, recall, F1, density, coverage: by CLIP features and by plain ones
  text       CLIP score; AUROC of the findings asked for; train on synthetic, test on real; scarce findings
  identity   is a twin the nearest of 100 to another record of its patient? equal error rate
  privacy    distances to the training set against a held-out one, membership inference

all with 95 % intervals. What cannot be computed from what was given is left out, and a note says why. OUT then
holds report.html, one page that needs no other file, and report.json.

examples:
  A model makes a twin of every test patient:
    ecgtwin-fast prepare simulated 1000 store --visits 3
    ecgtwin-fast evaluate --real store --model bundled --clip bundled --out evaluation

  Generated ECGs of two models side by side: a folder of twins, and a Parquet data set; the ECG-text encoder of a
  run of `ecgtwin-fast train` for CLIP features:
    ecgtwin-fast evaluate --real store --generated ECGTwin=twins DiffuSETS=others \\
        --extractor bundled --clip run/clip --out evaluation

  How many steps are enough? Quality at fewer steps of two samplers beside DDPM's 1000:
    ecgtwin-fast evaluate --real store --model bundled --out evaluation \\
        --curve ddpm=1000,100,25 sde-dpmpp=100,50,25,15,10,5

{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "evaluate",
        help="how good generated ECGs are: one page with all metrics",
        description="Evaluate generated ECGs beside the real ones of a prepared store: one page, one JSON file.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_evaluate)
    default = "(default %(default)s)"
    parser.add_argument("--real", type=Path, required=True, metavar="STORE", help="of `ecgtwin-fast prepare`")
    parser.add_argument(
        "--generated", nargs="+", action="extend", default=[], metavar="[NAME=]PATH",
        help="folder of twins (WFDB), data set (Parquet) or store; NAME heads its column (default: the folder's)",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="[NAME=]MODEL",
        help="bundled, diffusets, a model directory or a hub id: ECGTwin makes a twin of each test patient, DiffuSETS "
        "an ECG under the same condition",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    parser.add_argument(
        "--clip", metavar="DIR", help="trained ECG-text encoder: bundled, or RUN/clip of a run folder"
    )
    parser.add_argument(
        "--extractor",
        metavar="MODEL",
        help="model whose base vectors tell patients apart (default: the first ECGTwin of --model)",
    )
    parser.add_argument(
        "--train-store", nargs="+", action="extend", default=[], type=Path, metavar="STORE",
        help="what the generators were trained on, outside its test fold (default: the real STORE)",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=integer(1), default=1000, metavar="N", help=f"real and generated ECGs, each at most {default}"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default=SAMPLERS[0], help=f"of twins made by --model {default}")
    parser.add_argument("--steps", type=integer(1, 1000), default=25, metavar="N", help=f"1..1000 {default}")
    parser.add_argument(
        "--curve", nargs="+", action="extend", default=[], type=_points, metavar="SAMPLER=STEPS,...",
        help="samplers and numbers of steps at which each --model is looked at besides; the first is the yardstick",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=integer(1), default=32, metavar="N", help=f"twins at a time {default}")
    parser.add_argument("--seed", type=integer(0, 2**64 - 1), default=0, metavar="N", help=default)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--workers", type=integer(1), default=os.cpu_count() or 1, metavar="N",
        help=f"processes that delineate beats {default}",
    )  # fmt: skip


def _evaluate(given: argparse.Namespace) -> None:
    from ..data.store import Store
    from ..errors import ECGTwinError
    from ..evaluation.report import PAGE, EvaluationConfig, benchmark
    from ..generate import ECGTwin

    if not given.generated and not given.model:
        raise ECGTwinError("nothing to evaluate: give --generated PATH, --model MODEL, or both")
    folders, models = _named(given.generated), _named(given.model)
    points = tuple(point for part in given.curve for point in part)
    config = EvaluationConfig(given.count, given.sampler, given.steps, given.batch_size, given.seed, points)
    report = benchmark(
        Store(given.real),
        given.out,
        config,
        models={name: _model(model, given.device) for name, model in models.items()},
        generated=folders,
        clip=given.clip and _clip(given.clip),
        extractor=given.extractor and ECGTwin.from_pretrained(given.extractor, given.device),
        training=[Store(path) for path in given.train_store],
        device=given.device,
        workers=given.workers,
    )
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"report: {given.out / PAGE}")
    print(NOTICE)


def _points(text: str) -> list[Point]:
    """SAMPLER=STEPS,STEPS,..."""
    from ..evaluation.steps import Point

    sampler, _, numbers = text.partition("=")
    if sampler not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise argparse.ArgumentTypeError(f"{text!r}: expected SAMPLER=STEPS,STEPS,... with one of {known}")
    return [Point(sampler, integer(1, 1000)(number)) for number in numbers.split(",")]


def _model(name: str, device: str | None) -> Generator:
    from ..diffusets import DiffuSETS
    from ..generate import ECGTwin
    from ..pretrained import find_model, read_model_type

    kinds: dict[str, type[Generator]] = {kind.model_type: kind for kind in (ECGTwin, DiffuSETS)}
    return kinds[read_model_type(find_model(name))].from_pretrained(name, device)


def _named(values: Sequence[str]) -> dict[str, str]:
    """NAME=PATH, or a path by its last folder."""
    from ..errors import ECGTwinError

    found: dict[str, str] = {}
    for value in values:
        # An '=' further on is part of a folder's name.
        name, _, path = value.partition("=") if "=" in value.split("/")[0] else ("", "", value)
        name = name or Path(path).resolve().name
        if name in found:
            raise ECGTwinError(f"two generators are called {name}: tell them apart by NAME=PATH")
        found[name] = path
    return found


def _clip(name: str) -> nn.Module:
    from ..errors import CheckpointError
    from ..pretrained import BUNDLED_CLIP
    from ..training.loop import finished
    from ..training.run import load_trained

    folder = BUNDLED_CLIP if name == "bundled" else Path(name).resolve()
    run = folder.parent if folder.name == "clip" else folder
    if not finished(run / "clip"):
        raise CheckpointError(
            f"{folder}: no trained ECG-text encoder: expected the folder clip of a run of `ecgtwin-fast train clip`"
        )
    return load_trained(run, "clip")
