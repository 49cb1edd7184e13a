"""Evaluation of generators on the test fold of a store: all metrics, one page, one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import NOTICE, __version__
from ..data.store import Store
from ..device import usable_device
from ..errors import ECGTwinError
from ..generate import ECGTwin
from ..generator import Generator
from ..staging import check_folder, staged_folder
from .bootstrap import Estimate
from .collect import collect
from .ecgs import Ecgs
from .encoders import BaseEncoder, ClipEncoder, Statements
from .evidence import Evidence, Table
from .generated import Linkage, read_generated
from .measured import Tools
from .metrics import REAL, SHUFFLED, SPACES
from .page import page
from .personal import Personal, conditions, references
from .pictures import Shown, curves, gallery
from .plots import plots
from .scores import score
from .steps import Point, fewest_steps, step_curve
from .steps_plot import steps_plot
from .text_scores import FEWEST_RECORDS
from .twins import Sampling, choose_cases, make_ecgs

FOLDER, REPORT, PAGE = "report", "report.json", "report.html"
PICTURED = 4
"""Rows of the gallery, at least one of each generator."""


@dataclass(frozen=True)
class EvaluationConfig:
    """count: test patients and generated ECGs of each generator, at most. sampler, steps: of twins that are made here.
    batch: twins at a time. seed: of all that is drawn. curve: samplers and numbers of steps at which each model is
    looked at besides, of which the first is the yardstick."""

    count: int = 1000
    sampler: str = "ddpm"
    steps: int = 1000
    batch: int = 32
    seed: int = 0
    curve: tuple[Point, ...] = ()

    @property
    def sampling(self) -> Sampling:
        """How ECGs are made here."""
        return Sampling(self.sampler, self.steps, self.seed, self.batch)

    def to_json(self) -> dict[str, Any]:
        """As a report's settings hold it."""
        return {**asdict(self), "curve": [str(point) for point in self.curve]}

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
    workers: int | None = None,
) -> dict:
    """Evaluate the model of a run folder: OUT/report/report.json and report.html, as `benchmark` writes them.

    Args:
        model: a model directory (see `ECGTwin.from_pretrained`). clip: the trained ECG-text encoder of the metrics.
        store: its test fold is used. out: a run folder; training curves come from its stages, where it has them.
    """
    generators = {"generated": ECGTwin.from_pretrained(model, device)}
    folder = Path(out) / FOLDER
    return benchmark(store, folder, config, models=generators, clip=clip, device=device, workers=workers, run=out)


def benchmark(
    store: Store,
    folder: str | Path,
    config: EvaluationConfig | None = None,
    *,
    models: Mapping[str, Generator] | None = None,
    generated: Mapping[str, str | Path] | None = None,
    clip: nn.Module | None = None,
    extractor: ECGTwin | None = None,
    training: Sequence[Store] = (),
    device: str | torch.device | None = None,
    workers: int | None = None,
    run: str | Path | None = None,
) -> dict:
    """Write report.json and report.html to a folder, complete or not at all; returns what report.json holds.

    Generators are compared with records of the store's test fold, one of each patient, and with one another. What
    cannot be computed from what is given is left out, and a note says why.

    Args:
        models: by the names of their columns. Each ECGTwin makes a twin of every patient, from one record under the
            condition of a later one; of a patient with one record, under its own. A DiffuSETS makes an ECG of nobody
            under the same conditions. generated: folders of generated ECGs
            (`generated.read_generated`), by names. clip: ECG-text encoder. extractor: the model whose base vectors tell
            patients apart (the first ECGTwin of `models` if None). training: stores outside whose test folds the
            generators were trained; `store` if there are none. device: of the encoders and classifiers. workers:
            processes that delineate beats, one for each CPU if None. run: a run folder whose training curves are shown.

    Raises:
        StoreError: the test fold is empty. TextEncoderError: store and model embed differently.
        ECGTwinError: generated ECGs cannot be read, or there is nothing to evaluate.
    """
    config, models, generated = config or EvaluationConfig(), models or {}, generated or {}
    names = [*models, *generated]
    if not names or len({*names, REAL, SHUFFLED}) < len(names) + 2:
        raise ECGTwinError(f"generators {names}: expected one or more, with different names other than real, shuffled")
    check_folder(folder)
    device = usable_device(device)
    statements = Statements(store)
    twin_models = {name: model for name, model in models.items() if isinstance(model, ECGTwin)}
    extractor = extractor or next(iter(twin_models.values()), None)
    tools = Tools(
        clip and ClipEncoder(clip, statements, device),
        extractor and BaseEncoder(extractor, statements),
        workers or os.cpu_count() or 1,
    )
    cases = choose_cases(store, config.count, config.seed)
    sides = [Ecgs.of_store(store, rows, name) for rows, name in zip(cases, cases._fields, strict=True)]
    # What cannot be read is found before the models work.
    linkage = Linkage(store) if generated else None
    read = [read_generated(path, name, linkage, config.count, config.seed) for name, path in generated.items()]
    made = [make_ecgs(model, statements, *sides, config.sampling, name) for name, model in models.items()]
    real, ecgs = replace(sides[1], name=REAL), [ecgs for ecgs, _ in (*made, *read)]
    evidence = collect(store, real, ecgs, training or [store], tools, config.count, config.seed, device)
    evidence = replace(evidence, personal=_personal(twin_models, statements, store, evidence, config))
    table = score(evidence)
    for _, notes in read:
        table.notes += notes
    followed = {
        name: step_curve(model, name, statements, sides, evidence, tools, config.curve, config.seed, config.batch)
        for name, model in (models.items() if config.curve else ())
    }
    curves_of = _training(Path(run)) if run else {}
    report = _report(store, config, evidence, table) | {
        "steps": _json(followed),
        "fewest_steps": {
            name: {space: fewest_steps(rows, space) for space in SPACES} for name, rows in followed.items()
        },
        "training": {stage: summary for stage, (summary, _) in curves_of.items()},
        "settings": {
            **config.to_json(),
            "generators": {**{name: model.name for name, model in models.items()}, **_texts(generated)},
            "trained on": [str(one.path) for one in training or [store]],
            "backend": ", ".join(dict.fromkeys(backend for _, backend in made)),
            "device": str(device),
            "ecgtwin_fast": __version__,
            "torch": torch.__version__,
        },
    }
    pictures = {"Patients, generated ECGs, and their own records": gallery(_shown(store, evidence))}
    pictures |= plots(evidence, table)
    if followed:
        pictures["Quality against steps"] = steps_plot(followed)
    if curves_of:
        pictures["Training curves"] = curves({stage: history for stage, (_, history) in curves_of.items()})
    with staged_folder(folder) as scratch:
        (scratch / PAGE).write_text(page(report, pictures), encoding="utf-8")
        (scratch / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _personal(
    models: Mapping[str, ECGTwin], statements: Statements, store: Store, evidence: Evidence, config: EvaluationConfig
) -> dict[str, Personal]:
    """For personalised diagnosis, where there are patients with two records, and lessons for a classifier."""
    if evidence.queries is None or evidence.lessons is None or len(evidence.lessons) < FEWEST_RECORDS:
        return {}
    known, visits = references(store, evidence.gallery.ecgs, evidence.queries.ecgs)
    asked = conditions(evidence.lessons, len(known), config.seed)
    return {
        name: Personal(make_ecgs(model, statements, known, asked, config.sampling, f"{name}, personal")[0], visits)
        for name, model in models.items()
    }


def _report(store: Store, config: EvaluationConfig, evidence: Evidence, table: Table) -> dict[str, Any]:
    data = {
        "kind": store.kind,
        "records": len(store),
        "people": len(np.unique(store.person)),
        "test_records": len(store.rows(test=True)),
        "digest": store.digest,
    }
    sizes = {name: len(made) for name, made in evidence.columns}
    about = ", ".join(f"{size} of {name}" for name, size in sizes.items())
    return {
        "notice": NOTICE,
        "summary": f"Records looked at: {about} (at most {config.count} of each). The real ones are of as many "
        f"patients of the test fold of {data['kind']}: {data['records']} records of {data['people']} people, "
        f"{data['test_records']} of them in the test fold.",
        "notes": table.notes,
        "data": data,
        "records": sizes,
        "metrics": {column: _estimates(values) for column, values in table.values.items()},
        "findings": table.findings,
    }


def _estimates(values: Mapping[str, Estimate | None]) -> dict[str, dict[str, float] | None]:
    """As JSON holds them."""
    return {metric: estimate and estimate._asdict() for metric, estimate in values.items()}


def _json(followed: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [{**row, "metrics": _estimates(row["metrics"])} for row in rows] for name, rows in followed.items()}


def _shown(store: Store, evidence: Evidence) -> list[Shown]:
    """The first cases of every generator."""
    rows = []
    for made in evidence.generated:
        ecgs = made.ecgs
        for index in range(min(max(1, PICTURED // len(evidence.generated)), len(ecgs))):
            reference, target = int(ecgs.reference[index]), int(ecgs.target[index])
            rows.append(
                Shown(
                    name=ecgs.name,
                    reference=store.record(reference) if reference >= 0 else None,
                    generated=ecgs.record(index),
                    target=store.record(target) if target >= 0 and target != reference else None,
                )
            )
    return rows


def _texts(paths: Mapping[str, str | Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}


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
