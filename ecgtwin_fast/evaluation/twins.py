"""Twins of test patients: which pairs are evaluated, and the twins that a model makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..data.pairs import Pairs
from ..data.store import Store
from ..engine.cpu_decoder import decode
from ..engine.latents import generate_latents
from ..errors import StoreError
from ..generate import ECGTwin
from .ecgs import Ecgs
from .encoders import BaseEncoder, Statements


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


def make_twins(
    model: ECGTwin,
    statements: Statements,
    references: Ecgs,
    targets: Ecgs,
    sampler: str,
    steps: int,
    seed: int,
    batch: int = 32,
    name: str = "generated",
) -> tuple[Ecgs, str]:
    """A twin of each of `references` (n) under the condition of each of `targets` (n), and the backend that sampled;
    noise keyed by (seed, number of the twin).

    Raises TextEncoderError where the store's statements were embedded by another encoder than the model's.
    """
    encoder = BaseEncoder(model, statements)
    signals, backend = [], ""
    with torch.no_grad(), tqdm(total=len(references) * steps, desc=name, unit="step", mininterval=1) as bar:
        for start in range(0, len(references), batch):
            part = np.arange(start, min(start + batch, len(references)))
            size = len(part)
            base = torch.from_numpy(encoder.bases(references[part]))
            condition = encoder.conditions(targets[part])
            latents, backend = generate_latents(
                model.networks["denoiser"], *condition, base.to(model.device), sampler=sampler, steps=steps, seed=seed,
                first_index=start, progress=lambda done, total, size=size: bar.update(size),
            )  # fmt: skip
            signals.append(decode(model.networks["decoder"], latents).signals.cpu().numpy())
    made = {"signals": np.concatenate(signals), "person": references.person, "reference": references.target}
    return replace(targets, name=name, **made), backend
