"""What the bundled model can and cannot do: the figures of its model card.

References are PTB-XL's test fold (ECGTWIN_PTBXL, default ../shared/ecg/ptb-xl), which no training saw, or simulated
patients where PTB-XL is absent. Twins are asked for at several rates under sinus rhythm and under atrial fibrillation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from ecgtwin_fast import ECGTwin, Record
from ecgtwin_fast.data.preprocess import heart_rate_xqrs, prepare
from ecgtwin_fast.data.ptbxl import PTBXL, ptbxl_root
from ecgtwin_fast.data.simulated import simulate_pair
from ecgtwin_fast.errors import ECGTwinError
from ecgtwin_fast.pretrained import find_model, read_model
from ecgtwin_fast.training.cohort import TEST_FOLD
from ecgtwin_fast.training.rate_variants import beat_times

CONDITIONS = (
    ("sinus bradycardia", 50),
    ("normal ECG|sinus rhythm", 70),
    ("sinus tachycardia", 110),
    ("sinus tachycardia", 130),
    ("atrial fibrillation", 90),
)


def references(limit: int) -> Iterator[Record]:
    root = ptbxl_root()
    if root is None:
        rng = np.random.default_rng(0)
        yield from (simulate_pair(rng)[0] for _ in range(limit))
        return
    database = PTBXL(root)
    rows = [row for row in database.rows.values() if row.strat_fold == TEST_FOLD and row.age is not None]
    yield from (prepare(database.record(row.ecg_id)) for row in rows[:limit])


def einthoven_residual(record: Record) -> float:
    """Energy of I + III - II as a share of lead II's."""
    residual = record.lead("I") + record.lead("III") - record.lead("II")
    return float(np.square(residual).sum() / np.square(record.lead("II")).sum())


def rate_of(record: Record) -> float:
    try:
        return heart_rate_xqrs(record.signal, record.sampling_rate, record.leads)
    except ECGTwinError:
        return float("nan")


@torch.inference_mode()
def reconstruction(model: str, records: list[Record]) -> tuple[float, float]:
    """Median over records of the autoencoder's RMS error and of the signal's RMS, in mV."""
    _, networks, _ = read_model(find_model(model))
    signal = torch.from_numpy(np.stack([record.signal for record in records]))
    z, _, _ = networks["encoder"](signal, torch.zeros(()))
    error = (networks["decoder"](z) - signal).square().mean((1, 2)).sqrt()
    return float(error.median()), float(signal.square().mean((1, 2)).sqrt().median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--references", type=int, default=12)
    parser.add_argument("--count", type=int, default=8, help="twins a reference and condition")
    parser.add_argument("--sampler", default="dpmpp")
    parser.add_argument("--steps", type=int, default=25)
    given = parser.parse_args()
    twin = ECGTwin.from_pretrained(given.model)
    records = list(references(given.references))
    print(f"{len(records)} references, {given.count} twins each, {given.sampler} with {given.steps} steps")
    print(
        "autoencoder: median RMS error {:.3f} mV of a signal of {:.3f} mV".format(*reconstruction(given.model, records))
    )
    bases = torch.nn.functional.normalize(torch.stack([twin.base_vector(record) for record in records]), dim=-1)
    print(
        "report, asked rate: error of the median twin, share of twins within 8 bpm, no beats, RR variation, "
        "I + III - II, nearest base vector is the patient's"
    )
    for report, rate in CONDITIONS:
        errors, close, lost, variation, residuals, own = [], [], [], [], [], []
        for index, record in enumerate(records):
            twins = twin.generate(
                record, report=report, heart_rate=rate, count=given.count, sampler=given.sampler, steps=given.steps
            )
            rates = np.array([rate_of(made) for made in twins])
            errors.append(abs(np.nanmedian(rates) - rate))
            close += list(np.abs(rates - rate) <= 8)
            lost += list(np.isnan(rates))
            residuals += [einthoven_residual(made) for made in twins]
            for made in twins:
                rr = np.diff(beat_times(made))
                variation.append(rr.std() / rr.mean() if len(rr) > 2 else np.nan)
                base = torch.nn.functional.normalize(twin.base_vector(made), dim=-1)
                own.append(int((bases @ base).argmax()) == index)
        print(
            f"{report:28s} {rate:4d}: {np.median(errors):5.1f} bpm (worst reference {max(errors):.1f}), "
            f"{np.mean(close):4.0%}, {np.mean(lost):4.0%}, {np.nanmedian(variation):.2f}, "
            f"{np.median(residuals):.2%} (worst {max(residuals):.2%}), {np.mean(own):4.0%}"
        )


if __name__ == "__main__":
    main()
