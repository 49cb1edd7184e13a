"""Twins of test patients: which pairs are evaluated, and the ECGs that a model makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..data.pairs import Pairs
from ..data.store import Store
from ..diffusets import DiffuSETS
from ..engine.decoder import decode
from ..engine.latents import generate_latents
from ..errors import StoreError
from ..generate import ECGTwin
from ..generator import Condition, Generator, Signals
from .bootstrap import mean
from .ecgs import UNKNOWN, Ecgs
from .encoders import BaseEncoder, Statements, check_statements


class Cases(NamedTuple):
    """Rows of the store (n,): the patient's own record and the record whose condition, and look, is asked for. They
    are the same where a patient has no pair."""

    reference: np.ndarray
    target: np.ndarray

    @property
    def paired(self) -> np.ndarray:
        """(n,) bool: two different records."""
        return self.reference != self.target


def choose_cases(store: Store, count: int, seed: int) -> Cases:
    """At most `count` cases of the test fold: a pair of each of different people, then single records of others.

    Raises StoreError where the test fold is empty.
    """
    rng = np.random.default_rng(seed)
    rows = store.rows(test=True)
    if not len(rows):
        raise StoreError(f"{store.path}: has no record in the test fold to evaluate a model on")
    pairs = Pairs(store, rows).draw_people(rng, count)
    others = rng.permutation(rows[~np.isin(store.person[rows], store.person[pairs[:, 0]])])
    singles = others[np.unique(store.person[others], return_index=True)[1]]
    singles = rng.permutation(singles)[: count - len(pairs)]
    return Cases(*np.concatenate([pairs, np.stack([singles, singles], axis=1)]).T)


class Sampling(NamedTuple):
    """How ECGs are made: sampler, steps, seed, and records at a time."""

    sampler: str
    steps: int
    seed: int = 0
    batch: int = 32


def make_ecgs(
    model: Generator, statements: Statements, references: Ecgs, targets: Ecgs, how: Sampling, name: str = "generated"
) -> tuple[Ecgs, str]:
    """An ECG under the condition of each of `targets` (n), by ECGTwin a twin of the one of `references` (n) beside it,
    and the backend that sampled; noise keyed by (seed, number of the ECG).

    Raises TextEncoderError where the store's statements were embedded by another encoder than the model's.
    """
    check_statements(model, statements)
    make = _twins(model, statements, references, targets) if isinstance(model, ECGTwin) else _of_nobody(model, targets)
    signals, backend = [], ""
    with tqdm(total=len(targets) * how.steps, desc=name, unit="step", mininterval=1) as bar:
        for start in range(0, len(targets), how.batch):
            part = np.arange(start, min(start + how.batch, len(targets)))
            size = len(part)
            made = make(
                part, sampler=how.sampler, steps=how.steps, seed=how.seed, first_index=start,
                progress=lambda done, total, size=size: bar.update(size),
            )  # fmt: skip
            signals.append(made.signals)
            backend = made.backend
    whose = {"person": references.person, "reference": references.target}
    if not isinstance(model, ECGTwin):
        whose = dict.fromkeys(whose, np.full(len(targets), UNKNOWN))
    return replace(targets, name=name, signals=np.concatenate(signals), **whose), backend


def _twins(model: ECGTwin, statements: Statements, references: Ecgs, targets: Ecgs) -> Callable[..., Signals]:
    encoder = BaseEncoder(model, statements)

    @torch.no_grad()
    def make(part: np.ndarray, **options) -> Signals:
        base = torch.from_numpy(encoder.bases(references[part])).to(model.device)
        condition = encoder.conditions(targets[part])
        latents, backend = generate_latents(model.networks["denoiser"], *condition, base, **options)
        return Signals(decode(model.networks["decoder"], latents).signals.cpu().numpy(), backend)

    return make


def _of_nobody(model: DiffuSETS, targets: Ecgs) -> Callable[..., Signals]:
    """A number that is not known stands at the mean of the known ones, as in training."""
    rate, age, sex = (
        np.nan_to_num(values, nan=mean(values)) for values in (targets.heart_rate, targets.age, targets.sex)
    )

    def make(part: np.ndarray, **options) -> Signals:
        conditions = [
            Condition(targets.reports[row], float(rate[row]), float(age[row]), "FM"[round(float(sex[row]))])
            for row in part
        ]
        return model.signals(conditions, **options)

    return make
