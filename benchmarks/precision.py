"""Are twins in bfloat16 other twins? Distances between sets of them, beside that between two seeds in float32.

    python benchmarks/precision.py STORE --csv precision.csv

The same patients of STORE's test fold get twins by whole trajectories of the published sampler: in float32 with two
seeds, and in bfloat16 by every backend with the first of them. Distances are Fréchet's, of the evaluation's plain
features (intervals, amplitudes, morphology). bfloat16 passes where it is no farther from float32 with the same noise
than float32 with other noise is. Decoding is in float32, so that it is the trajectories that are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from tqdm import tqdm

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.data.store import Store
from ecgtwin_fast.engine.decoder import decode
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.evaluation.beats import measured_beats
from ecgtwin_fast.evaluation.bootstrap import bootstrap
from ecgtwin_fast.evaluation.ecgs import Ecgs
from ecgtwin_fast.evaluation.encoders import BaseEncoder, Statements
from ecgtwin_fast.evaluation.frechet import frechet_distance
from ecgtwin_fast.evaluation.measured import PlainScale
from ecgtwin_fast.evaluation.twins import choose_cases

COLUMNS = ("model", "records", "sampler", "steps", "twins", "beside", "distance", "low", "high", "latents_error")
SINGLE = {"cpu": "cpu", "cuda": "reference"}
"""The backend of float32, by device."""
HALF = {"cpu": ("cpu",), "cuda": ("triton", "cuda", "graph")}
"""Backends of bfloat16, by device."""
BATCH = 64


class Patients:
    """Conditions and base vectors of test patients, and what their own records look like."""

    def __init__(self, model: ECGTwin, store: Store, count: int):
        encoder = BaseEncoder(model, Statements(store))
        cases = choose_cases(store, count, seed=0)
        self.real = Ecgs.of_store(store, cases.target, "real")
        self._model, self._scale = model, PlainScale(plain(self.real.signals))
        bases = encoder.bases(Ecgs.of_store(store, cases.reference, "reference"))
        self._base = torch.from_numpy(bases).to(model.device)
        self._conditions = encoder.conditions(self.real)

    def latents(self, seed: int, backend: str, dtype: torch.dtype, sampler: str, steps: int) -> torch.Tensor:
        """(n, C, L) on the CPU, whatever the batch."""
        parts = []
        with tqdm(total=len(self.real) * steps, desc=f"{backend} {dtype} seed {seed}", unit="step") as bar:
            for start in range(0, len(self.real), BATCH):
                part = slice(start, start + BATCH)
                condition = [value[part] for value in (*self._conditions, self._base)]
                size = len(condition[0])
                parts.append(
                    generate_latents(
                        self._model.networks["denoiser"], *condition, sampler=sampler, steps=steps, seed=seed,
                        first_index=start, backend=backend, dtype=dtype,
                        progress=lambda *_, size=size: bar.update(size),
                    ).latents.cpu()
                )  # fmt: skip
        return torch.cat(parts)

    def features(self, latents: torch.Tensor) -> np.ndarray:
        """Plain features (n, f) of the decoded twins, in units of the real records' deviation."""
        decoder, device = self._model.networks["decoder"], self._model.device
        signals = [decode(decoder, part.to(device)).signals.cpu().numpy() for part in latents.split(BATCH)]
        return self._scale(plain(np.concatenate(signals)))


def plain(signals: np.ndarray) -> np.ndarray:
    return measured_beats(list(signals), os.cpu_count() or 1)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a prepared store; its test fold has the patients")
    parser.add_argument("--model", default="bundled", help="(default %(default)s)")
    parser.add_argument("--count", type=int, default=256, metavar="N", help="patients (default %(default)s)")
    parser.add_argument("--sampler", default="ddpm", help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--device", default="cpu", choices=list(SINGLE), help="(default %(default)s)")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    model = ECGTwin.from_pretrained(given.model, given.device)
    patients = Patients(model, Store(given.store), given.count)
    how = {"sampler": given.sampler, "steps": given.steps}
    ways = {f"float32, seed {seed}": (seed, SINGLE[given.device], torch.float32) for seed in (0, 1)}
    ways |= {f"bfloat16, {name}, seed 0": (0, name, torch.bfloat16) for name in HALF[given.device]}
    latents = {name: patients.latents(*way, **how) for name, way in ways.items()}
    features = {name: patients.features(found) for name, found in latents.items()}

    first, second, *halves = latents
    people, rows, passed = np.arange(len(patients.real)), [], True
    for one, other in [(second, first), *((half, base) for half in halves for base in (first, second))]:
        a, b = features[one], features[other]
        found = bootstrap(lambda own, a=a, b=b: frechet_distance(a[own], b[own]), people, centred=True)
        error = float((latents[one] - latents[other]).norm() / latents[other].norm())
        distance = f"{found.value:8.3f} ({found.low:.3f}, {found.high:.3f})"
        print(f"{one:26s} beside {other:18s} {distance}  latents {error:.3f}")
        what = {"model": given.model, "records": len(people), **how, "twins": one, "beside": other}
        rows.append(what | {"distance": found.value, "low": found.low, "high": found.high, "latents_error": error})
        if one in halves and other == first:
            passed &= found.value <= rows[0]["distance"]
    if given.csv:
        append_csv(given.csv, COLUMNS + FACTS, [row | facts(given.device) for row in rows])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
