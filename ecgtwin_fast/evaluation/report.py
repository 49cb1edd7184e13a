"""Evaluation of a trained model on the test fold of a store: twins, all metrics, one report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .. import NOTICE, __version__
from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLING_RATE
from ..data.record import Record
from ..data.store import Store
from ..errors import ECGTwinError
from ..generate import ECGTwin
from ..staging import staged_folder
from .heart_rate import measured_rates
from .page import page
from .pictures import curves, gallery
from .scores import Evidence, score
from .twins import Cases, Twins, choose_cases, clip_features, make_twins

FOLDER, REPORT, PAGE = "report", "report.json", "report.html"
PICTURED = 4
"""Cases in the gallery, at most."""


@dataclass(frozen=True)
class EvaluationConfig:
    """count: test patients, at most. sampler, steps: of the twins. batch: twins at a time. seed: of cases and noise."""

    count: int = 1000
    sampler: str = "ddpm"
    steps: int = 1000
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ECGTwinError(f"evaluation.{name} is {getattr(self, name)}, expected at least 1")


def evaluate(
    model: str | Path,
    clip: nn.Module,
    store: Store,
    out: str | Path,
    config: EvaluationConfig | None = None,
    device: str | torch.device | None = None,
) -> dict:
    """Write OUT/report/report.json and report.html, complete or not at all; returns what report.json holds.

    Twins are generated for test patients, from one record under the condition of a later one, and compared with that
    one. A patient with one record gets a twin under its own condition, and the report says how many.

    Args:
        model: a model directory (see `ECGTwin.from_pretrained`). clip: the trained ECG-text encoder of the metrics.
        store: its test fold is used. out: a run folder; training curves come from its stages, where it has them.

    Raises:
        StoreError: the test fold is empty. TextEncoderError: store and model embed differently.
    """
    config = config or EvaluationConfig()
    twin_model = ECGTwin.from_pretrained(model, device)
    clip = clip.to(twin_model.device).eval()
    cases = choose_cases(store, config.count, config.seed)
    twins = make_twins(twin_model, store, cases, config.sampler, config.steps, config.seed, config.batch)
    metrics, notes = score(_evidence(clip, store, cases, twins), config.seed)
    training = _training(Path(out))
    report = {
        "notice": NOTICE,
        "notes": notes,
        "data": {
            "kind": store.kind,
            "records": len(store),
            "people": len(np.unique(store.person)),
            "test_records": len(store.rows(test=True)),
            "digest": store.digest,
        },
        "cases": {"count": len(cases.reference), "paired": int(cases.paired.sum())},
        "metrics": metrics,
        "training": {stage: summary for stage, (summary, _) in training.items()},
        "settings": {
            **asdict(config),
            "backend": twins.backend,
            "device": str(twin_model.device),
            "ecgtwin_fast": __version__,
            "torch": torch.__version__,
        },
    }
    pictures = {"Patients, their twins, and their own records": gallery(_gallery_cases(store, cases, twins))}
    if training:
        pictures["Training curves"] = curves({stage: history for stage, (_, history) in training.items()})
    with staged_folder(Path(out) / FOLDER) as scratch:
        (scratch / PAGE).write_text(page(report, pictures), encoding="utf-8")
        (scratch / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _evidence(clip: nn.Module, store: Store, cases: Cases, twins: Twins) -> Evidence:
    real = store.signals(cases.target)
    twin_features, text_features = clip_features(clip, store, cases.target, twins.signals)
    real_features, _ = clip_features(clip, store, cases.target, real)
    both = tqdm(np.concatenate([twins.signals, real]), desc="heart rates", unit="record", mininterval=1)
    twin_rates, real_rates = np.split(measured_rates(both), 2)
    return Evidence(
        twin_features=twin_features,
        real_features=real_features,
        text_features=text_features,
        requested_rates=store.heart_rate[cases.target],
        twin_rates=twin_rates,
        real_rates=real_rates,
        twin_bases=twins.twin_bases,
        reference_bases=twins.reference_bases,
        target_bases=twins.target_bases,
        person=store.person[cases.target],
        paired=cases.paired,
        twin_signals=twins.signals,
        real_signals=real,
    )


def _gallery_cases(store: Store, cases: Cases, twins: Twins) -> list[tuple[Record, Record, Record | None]]:
    found = []
    for index in range(min(PICTURED, len(cases.reference))):
        target = store.record(cases.target[index])
        twin = Record(
            twins.signals[index], SAMPLING_RATE, MODEL_LEADS, target.age, target.sex, target.report, target.heart_rate
        )
        reference = store.record(cases.reference[index])
        found.append((reference, twin, target if cases.paired[index] else None))
    return found


def _training(out: Path) -> dict[str, tuple[dict, list[dict[str, float]]]]:
    """Summary and history of each trained stage of a run folder."""
    from ..training.checkpoint import read_json
    from ..training.configs import STAGES
    from ..training.log import read_history
    from ..training.loop import SUMMARY, finished

    return {
        stage: (read_json(out / stage / SUMMARY), read_history(out / stage))
        for stage in STAGES
        if finished(out / stage)
    }
