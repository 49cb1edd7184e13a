"""What each part of ECGTwin's denoiser is good for: the paper's ablations, trained alike and evaluated in one table.

    python benchmarks/ablation.py RUN STORE --real HELD_OUT --out DIR

RUN is a run folder whose autoencoder and extractor are trained on STORE (`ecgtwin-fast train`, or `python -m
ecgtwin_fast.training.bundled`). Every variant gets the same data, seed, sizes and steps. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.evaluation.report import EvaluationConfig, benchmark
from ecgtwin_fast.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS
from ecgtwin_fast.training.bundled import REAL_SHARES
from ecgtwin_fast.training.configs import stage_config
from ecgtwin_fast.training.run import LATENTS, MODEL, load_trained, train_stage

VARIANTS = {
    "ECGTwin": {},
    "AdaLN only": {"network": "dit_adaln"},
    "attention only": {"network": "dit_attn"},
    "no base vector": {"without": "base"},
    "no report": {"without": "report"},
}
BEFORE = ("autoencoder", "extractor")
METRICS = (
    "heart_rate_median", "auroc", "clip_score", "fid_plain", "relative_fid_plain", "fid_clip", "relative_fid_clip",
    "f1_plain", "top1_base", "top1_plain", "anatomy_base",
)  # fmt: skip
COLUMNS = ("variant", "training_steps", "batch", "metric", "value", "low", "high", *FACTS)


def trained(variant: str, run: Path, store: Store, out: Path, steps: int) -> Path:
    """The model directory of a variant, trained in a run folder of its own."""
    folder = out / variant.replace(" ", "_")
    for stage in BEFORE:
        shutil.copytree(run / stage, folder / stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    shutil.copytree(run / LATENTS, folder / LATENTS, dirs_exist_ok=True, copy_function=_linked)
    config = replace(stage_config("denoiser", "small"), real_share=REAL_SHARES["denoiser"], **VARIANTS[variant])
    config = replace(config, loop=replace(config.loop, steps=steps, sample_every=0))
    train_stage("denoiser", store, folder, config, resume=True)
    return folder / MODEL


def _linked(source: str, target: str) -> str:
    if not Path(target).exists():
        Path(target).symlink_to(Path(source).resolve())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path, help="what RUN was trained on")
    parser.add_argument("--real", type=Path, required=True, metavar="STORE", help="its test fold judges")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folders, and report/report.html")
    parser.add_argument("--steps", type=int, default=3000, metavar="N", help="of training (default %(default)s)")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="test patients (default %(default)s)")
    given = parse_with_csv(parser, COLUMNS)
    store = Store(given.store)
    folders = {name: trained(name, given.run, store, given.out, given.steps) for name in VARIANTS}
    clip = load_trained(given.run, "clip") if (given.run / "clip" / "summary.json").is_file() else None
    report = benchmark(
        Store(given.real),
        given.out / "report",
        EvaluationConfig(count=given.count, sampler=DEFAULT_SAMPLER, steps=DEFAULT_STEPS),
        models={name: ECGTwin.from_pretrained(folder) for name, folder in folders.items()},
        clip=clip,
        training=[store],
    )
    batch = stage_config("denoiser", "small").loop.batch
    rows = []
    print("variant".ljust(16), *(metric.rjust(18) for metric in METRICS))
    for variant, found in report["metrics"].items():
        cells = [f"{found[key]['value']:.3f}" if found[key] else "-" for key in METRICS]
        print(variant.ljust(16), *(cell.rjust(18) for cell in cells))
        for key in METRICS:
            if found[key]:
                settings = {"variant": variant, "training_steps": given.steps, "batch": batch, "metric": key}
                rows.append({**settings, **found[key], **facts("cpu")})
    if given.csv:
        append_csv(given.csv, COLUMNS, rows)


if __name__ == "__main__":
    main()
