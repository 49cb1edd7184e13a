"""Twins of test patients: which pairs are evaluated, and the twins that the model makes of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.pairs import Pairs
from ..data.preprocess import SAMPLES
from ..data.store import Store
from ..engine.cpu_decoder import decode
from ..engine.cpu_extractor import extract
from ..engine.latents import generate_latents
from ..errors import StoreError, TextEncoderError
from ..generate import ECGTwin


class Cases(NamedTuple):
    """Rows of the store (n,): the patient's own record and the record whose condition, and look, is asked for. They
    are the same where a patient has no pair."""

    reference: np.ndarray
    target: np.ndarray

    @property
    def paired(self) -> np.ndarray:
        """(n,) bool: two different records."""
        return self.reference != self.target


class Twins(NamedTuple):
    """signals (n, 1024, 12) in mV; base vectors (n, hidden) of twins, references and targets, each under its own
    condition; the backend that sampled."""

    signals: np.ndarray
    twin_bases: np.ndarray
    reference_bases: np.ndarray
    target_bases: np.ndarray
    backend: str


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
    model: ECGTwin, store: Store, cases: Cases, sampler: str, steps: int, seed: int, batch: int = 32
) -> Twins:
    """A twin of every case; noise keyed by (seed, number of the case).

    Raises TextEncoderError where the store's statements were embedded by another encoder than the model's.
    """
    ours, theirs = (store.text_encoder, store.text_width), (model.config.text_encoder, model.config.text_width)
    if ours != theirs:
        raise TextEncoderError(
            f"{store.path}: statements are embedded by {ours}, the model {model.name} takes {theirs}"
        )
    signals, bases, backend = [], [], ""
    with torch.no_grad(), tqdm(total=len(cases.reference) * steps, desc="twins", unit="step", mininterval=1) as bar:
        for start in range(0, len(cases.reference), batch):
            part = slice(start, start + batch)
            rows = cases.reference[part], cases.target[part]
            known = [_bases(model, store.signals(index), _conditions(store, index, model.device)) for index in rows]
            condition = _conditions(store, rows[1], model.device)
            size = len(rows[0])
            latents, backend = generate_latents(
                model.networks["denoiser"], *condition, known[0], sampler=sampler, steps=steps, seed=seed,
                first_index=start, progress=lambda done, total, size=size: bar.update(size),
            )  # fmt: skip
            made = decode(model.networks["decoder"], latents).signals.cpu().numpy()
            signals.append(made)
            bases.append([values.cpu() for values in (_bases(model, made, condition), *known)])
    twin, reference, target = (torch.cat(side).numpy() for side in zip(*bases, strict=True))
    return Twins(np.concatenate(signals), twin, reference, target, backend)


@torch.no_grad()
def clip_features(
    clip: nn.Module, store: Store, rows: np.ndarray, signals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, width) of signals (n, 1024, 12) and of the reports of `rows`, by the ECG-text encoder."""
    from ..training.ecg_text import mean_text

    device = clip.logit_scale.device
    texts = clip.encode_text(torch.from_numpy(mean_text(store, rows)).to(device))
    parts = [clip.encode_signal(part.to(device)) for part in torch.from_numpy(signals).split(64)]
    return torch.cat(parts).float().cpu().numpy(), texts.float().cpu().numpy()


def _conditions(store: Store, rows: np.ndarray, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(values).to(device) for values in store.condition(rows)]


def _bases(model: ECGTwin, signals: np.ndarray, condition: list[Tensor]) -> Tensor:
    no_noise = torch.zeros(1, model.networks["denoiser"].channels, SAMPLES // 8, device=model.device)
    latents, _, _ = model.networks["encoder"](torch.from_numpy(signals).to(model.device), no_noise)
    return extract(model.networks["extractor"], latents, *condition).base_vectors
