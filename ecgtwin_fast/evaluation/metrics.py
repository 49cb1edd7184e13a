"""The metrics of the report: what they are called, which way is better, what they say, and published values."""

from __future__ import annotations

from dataclasses import dataclass

from .identity import AMONG

REAL, SHUFFLED = "real", "shuffled"


@dataclass(frozen=True)
class Metric:
    """How a number is shown: its section, name, unit, digits, which way is better, what it says, and what a paper
    states of it, with model and data set."""

    section: str
    name: str
    unit: str
    digits: int
    better: str
    meaning: str
    published: str = ""


SPACES = {"clip": "CLIP", "plain": "plain"}
"""Where distances between ECGs are taken: in the features of the ECG-text encoder; in intervals and morphology."""
IDENTITIES = {"base": "base vectors", "plain": "plain features"}

_SIGNAL = {
    "heart_rate_median": Metric("Signal", "heart-rate error, median", "bpm", 1, "lower", "XQRS against the rate asked"),
    "heart_rate_mean": Metric("Signal", "heart-rate error, mean", "bpm", 1, "lower", "XQRS against the rate asked"),
    "heart_rate_unmeasured": Metric("Signal", "no heart rate found", "share", 3, "lower", "XQRS finds no beats"),
    **{
        f"wasserstein_{interval.lower()}": Metric(
            "Signal", f"{interval} distribution", unit, 1, "lower", "Wasserstein distance to real records"
        )
        for interval, unit in {"RR": "ms", "PR": "ms", "QRS": "ms", "QT": "ms", "axis": "°"}.items()
    },
    "undelineated": Metric("Signal", "no QRS width found", "share", 3, "lower", "neurokit2 delineates no beat"),
    "einthoven": Metric("Signal", "Einthoven residual", "mV", 4, "lower", "root mean square of I + III - II"),
    "spectra": Metric("Signal", "spectral distance", "dB", 2, "lower", "between mean log power spectra, 0.5-40 Hz"),
}
_PUBLISHED = {
    ("clip", "fid"): "18 ± 3.1 (ECGTwin on MIMIC-IV-ECG, with the authors' encoder)",
    ("clip", "precision"): "0.883 ± 0.003 (ECGTwin on MIMIC-IV-ECG, with the authors' encoder)",
}
"""arXiv 2508.02720."""
_FEATURES = {
    "fid": ("FID", "lower", "Fréchet distance to other patients' real records"),
    "relative_fid": ("relative FID", "lower", "over the FID of two halves of the real records"),
    "precision": ("precision", "higher", "share of generated among real records"),
    "recall": ("recall", "higher", "share of real among generated records"),
    "f1": ("F1", "higher", "harmonic mean of precision and recall, k = 3"),
    "density": ("density", "higher", "how thickly real records surround generated ones"),
    "coverage": ("coverage", "higher", "share of real records with a generated one nearby"),
}
_FEATURES = {
    f"{key}_{space}": Metric(
        "Features", f"{name}, {label}", "", 3, better, meaning, _PUBLISHED.get((space, key), "")
    )
    for space, label in SPACES.items()
    for key, (name, better, meaning) in _FEATURES.items()
}
_TEXT = {
    "clip_score": Metric("Text", "CLIP score", "", 3, "higher", "cosine of ECG and report features"),
    "auroc": Metric("Text", "AUROC of the condition asked", "", 3, "higher", "by a classifier of real records; mean"),
    "tstr": Metric("Text", "AUROC, trained on these", "", 3, "higher", "tested on real records (TSTR); mean"),
    "augmented": Metric(
        "Text", "AUROC of scarce findings", "", 3, "higher", "trained on real records and these, tested on real ones"
    ),
}
_TEXT["personal"] = Metric(
    "Text", "AUROC, adapted to the patient", "", 3, "higher", "by twins; real: not adapted; shuffled: another's twins",
    "6 to 8 % better when augmented (ECGTwin on MIMIC-IV-ECG, the authors' protocol)",
)
_IDENTITY = {
    f"{key}_{space}": Metric("Identity", f"{name}, {label}", unit, 3, better, meaning)
    for space, label in IDENTITIES.items()
    for key, (name, unit, better, meaning) in {
        "top1": ("top 1", "share", "higher", f"the patient is the nearest of {AMONG}"),
        "top5": ("top 5", "share", "higher", f"the patient is among the five nearest of {AMONG}"),
        "eer": ("equal error rate", "share", "lower", "same person or not, by cosine"),
        "anatomy": ("anatomy recovered", "R²", "higher", "of simulated patients, by ridge regression"),
    }.items()
}
_PRIVACY = {
    "distance_ratio": Metric(
        "Privacy", "distance to training over held-out", "", 3, "like real", "nearest neighbours, median; copies: 0"
    ),
    "membership": Metric("Privacy", "membership AUC", "", 3, "0.5", "training records told by their nearest generated"),
}
METRICS: dict[str, Metric] = {**_SIGNAL, **_FEATURES, **_TEXT, **_IDENTITY, **_PRIVACY}
HEADLINE = (
    "heart_rate_median", "auroc", "top1_base", "top1_plain", "relative_fid_clip", "relative_fid_plain", "f1_clip",
    "f1_plain", "distance_ratio", "membership",
)  # fmt: skip
"""Of the report's first table."""
