"""How well does a model's autoencoder reconstruct records that it has not seen?

    python benchmarks/autoencoder.py STORE --csv autoencoder.csv

Each record of STORE's test fold is encoded, without the posterior's noise, and decoded. Pearson's correlation of a lead
with its reconstruction is taken over the record's 10 s; flat leads have none. The interval draws patients anew. A
channel of the latent whose posterior is much wider than its means are spread carries nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from tqdm import tqdm

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.engine.decoder import decode
from ecgtwin_fast.evaluation.bootstrap import bootstrap
from ecgtwin_fast.models.vae import LATENT_SCALE

COLUMNS = ("model", "store", "records", "patients", "lead", "median_correlation", "low", "high")
BATCH = 32


@torch.no_grad()
def reconstructed(model: ECGTwin, signals: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Signals (n, 1024, 12) in mV after the autoencoder; means and deviations (n, C, 128) of the scaled posterior."""
    latents, _, log_variance = model.networks["encoder"](torch.from_numpy(signals), torch.zeros(()))
    deviations = (log_variance / 2).exp() * LATENT_SCALE
    return decode(model.networks["decoder"], latents).signals.numpy(), latents, deviations


def correlations(signals: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pearson's (n, leads) of signals (n, samples, leads); NaN for a lead that is flat."""
    a, b = (values - values.mean(1, keepdims=True) for values in (signals.astype(np.float64), others))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a prepared store; the records of its test fold are taken")
    parser.add_argument("--model", default="bundled", help="(default %(default)s)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    model, store = ECGTwin.from_pretrained(given.model, "cpu"), Store(given.store)
    rows = store.rows(test=True)
    if not len(rows):
        parser.error(f"{given.store}: no record of it is in the test fold")
    found, means, deviations = [], [], []
    for part in tqdm(np.array_split(rows, -(-len(rows) // BATCH)), desc="records", unit="batch"):
        signals = store.signals(part)
        again, *posterior = reconstructed(model, signals)
        found.append(correlations(signals, again))
        means.append(posterior[0])
        deviations.append(posterior[1])
    found, people = np.concatenate(found), store.person[rows]

    what = {"model": given.model, "store": store.kind, "records": len(rows), "patients": len(np.unique(people))}
    results = []
    for lead, columns in [("all", found), *((lead, found[:, [i]]) for i, lead in enumerate(MODEL_LEADS))]:
        median = bootstrap(lambda own, values=columns: np.nanmedian(values[own]), people)
        print(f"{lead:4s} {median.value:.4f} ({median.low:.4f}, {median.high:.4f})")
        interval = {"median_correlation": median.value, "low": median.low, "high": median.high}
        results.append(what | {"lead": lead} | interval)
    print(f"median over records of a record's median lead: {np.median(np.nanmedian(found, axis=1)):.4f}")
    for channel, (mean, deviation) in enumerate(
        zip(torch.cat(means).transpose(0, 1), torch.cat(deviations).transpose(0, 1), strict=True)
    ):
        print(f"channel {channel}: means spread by {mean.std():.2f}, posterior by {deviation.mean():.2f}")
    if given.csv:
        append_csv(given.csv, COLUMNS + FACTS, [row | facts("cpu") for row in results])


if __name__ == "__main__":
    main()
