"""All metrics of generated ECGs, beside what real ECGs reach and what wrongly assigned ones do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .clip_score import clip_score, cosines
from .einthoven import einthoven_residual
from .frechet import frechet_distance, relative_frechet_distance
from .heart_rate import heart_rate_error
from .identity import identity
from .manifold import manifold_scores

NEIGHBOURS = 3
COLUMNS = {
    "generated": "twins against what was asked for: the conditions of their targets and the identity of their "
    "references; distances and manifolds: twins of one half of the patients against the targets of the other half",
    "real": "the targets themselves in the twins' place: as good as can be",
    "shuffled": "twins against another patient's condition and reference: as bad as chance",
}


@dataclass(frozen=True)
class Metric:
    """How a number is shown: its name, unit, digits, which way is better, and what it says."""

    name: str
    unit: str
    digits: int
    better: str
    meaning: str


METRICS = {
    "fid": Metric("FID", "", 3, "lower", "Fréchet distance of ECG features"),
    "relative_fid": Metric("relative FID", "", 3, "lower", "over the FID of two halves of the real records"),
    "precision": Metric("precision", "", 3, "higher", "share of twins among the real records"),
    "recall": Metric("recall", "", 3, "higher", "share of real records among the twins"),
    "f1": Metric("F1", "", 3, "higher", "harmonic mean of precision and recall"),
    "density": Metric("density", "", 3, "higher", "how thickly real records surround the twins"),
    "coverage": Metric("coverage", "", 3, "higher", "share of real records with a twin nearby"),
    "heart_rate_mean": Metric("heart-rate error, mean", "bpm", 1, "lower", "XQRS against the rate asked for"),
    "heart_rate_median": Metric("heart-rate error, median", "bpm", 1, "lower", "XQRS against the rate asked for"),
    "heart_rate_unmeasured": Metric("no heart rate found", "share", 3, "lower", "XQRS finds no beats"),
    "clip_score": Metric("CLIP score", "", 3, "higher", "cosine of ECG and report features"),
    "base_cosine": Metric("cosine of base vectors", "", 3, "higher", "with the same patient's reference"),
    "top1": Metric("identity, top 1", "share", 3, "higher", "the patient's reference is the nearest of all"),
    "top5": Metric("identity, top 5", "share", 3, "higher", "it is among the five nearest"),
    "equal_error_rate": Metric("identity, equal error rate", "share", 3, "lower", "same person or not, by cosine"),
    "einthoven": Metric("Einthoven residual", "mV", 4, "lower", "root mean square of I + III - II"),
}


@dataclass(frozen=True)
class Evidence:
    """What the metrics look at, for n cases: ECG features (n, d) of twins and of real targets, features of the reports
    asked for; heart rates (n,) in bpm asked for and measured; base vectors (n, h); persons (n,); signals
    (n, samples, 12) in mV; paired (n,): the target is another record than the reference."""

    twin_features: np.ndarray
    real_features: np.ndarray
    text_features: np.ndarray
    requested_rates: np.ndarray
    twin_rates: np.ndarray
    real_rates: np.ndarray
    twin_bases: np.ndarray
    reference_bases: np.ndarray
    target_bases: np.ndarray
    person: np.ndarray
    paired: np.ndarray
    twin_signals: np.ndarray
    real_signals: np.ndarray


def score(evidence: Evidence, seed: int) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Numbers by column (COLUMNS) and metric (METRICS), None where there is none, and notes on what is missing."""
    values: dict[str, dict[str, float | None]] = {column: dict.fromkeys(METRICS) for column in COLUMNS}
    generated, real, shuffled = values.values()
    count, paired = len(evidence.person), int(evidence.paired.sum())
    first, second = np.array_split(np.random.default_rng(seed).permutation(count), 2)
    if len(second) > NEIGHBOURS:
        _score_distributions(evidence, first, second, generated, real)
    _score_conditions(evidence, generated, real, shuffled, _others(count, seed))
    if paired > 1:
        _score_identity(evidence, generated, real, shuffled, _others(paired, seed))
    generated["einthoven"] = float(einthoven_residual(evidence.twin_signals).mean())
    real["einthoven"] = float(einthoven_residual(evidence.real_signals).mean())
    return values, list(_notes(evidence, values))


def _score_distributions(one: Evidence, first: np.ndarray, second: np.ndarray, generated: dict, real: dict) -> None:
    reference = one.real_features[second]
    for column, features in ((generated, one.twin_features[first]), (real, one.real_features[first])):
        column["fid"] = frechet_distance(features, reference)
        column["relative_fid"] = relative_frechet_distance(features, one.real_features[first], reference)
        column |= manifold_scores(features, reference, NEIGHBOURS)._asdict()


def _score_conditions(one: Evidence, generated: dict, real: dict, shuffled: dict, others: np.ndarray) -> None:
    own = np.arange(len(one.person))
    claims = [(generated, one.twin_features, one.twin_rates, own), (real, one.real_features, one.real_rates, own)]
    if len(own) > 1:
        claims.append((shuffled, one.twin_features, one.twin_rates, others))
    for column, features, rates, asked in claims:
        error = heart_rate_error(rates, one.requested_rates[asked])
        column |= {f"heart_rate_{name}": _finite(value) for name, value in error._asdict().items()}
        column["clip_score"] = clip_score(features, one.text_features[asked])


def _score_identity(one: Evidence, generated: dict, real: dict, shuffled: dict, others: np.ndarray) -> None:
    twins, references, targets = (
        bases[one.paired] for bases in (one.twin_bases, one.reference_bases, one.target_bases)
    )
    person = one.person[one.paired]
    for column, queries, claimed, partner in (
        (generated, twins, person, references),
        (real, targets, person, references),
        (shuffled, twins, person[others], references[others]),
    ):
        # Not among the targets, whose conditions the twins share: a base vector may keep traces of its condition.
        found = identity(queries, claimed, references, person)
        column |= {"top1": found.top1, "top5": found.top5, "equal_error_rate": found.equal_error_rate}
        column["base_cosine"] = float(cosines(queries, partner).mean())


def _notes(one: Evidence, values: dict[str, dict[str, float | None]]) -> Iterator[str]:
    count, width = one.real_features.shape
    paired = int(one.paired.sum())
    if values["generated"]["fid"] is None:
        yield f"{count} test records are too few for distances and manifolds of their halves"
    elif count < 10 * width:
        yield (
            f"{count} records are few for features of {width} dimensions: distances are biased upwards; compare them "
            "within this report or with runs of equal size"
        )
    if values["generated"]["top1"] is None:
        yield f"{paired} test patients have a pair of records: identity needs two such patients"
    if paired < count:
        yield (
            f"{count - paired} of {count} test patients have no pair of records: their twins are asked for under their "
            "record's own condition, and do not count for identity"
        )
    real_error = values["real"]["heart_rate_mean"]
    if real_error is not None and real_error < 0.01:
        yield "the store's heart rates are XQRS's own, so that real records have no heart-rate error"


def _others(count: int, seed: int) -> np.ndarray:
    """A permutation of 0..count-1 that leaves nothing in place (for count above 1)."""
    cycle = np.random.default_rng(seed).permutation(count)
    others = np.empty_like(cycle)
    others[cycle] = np.roll(cycle, 1)
    return others


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
