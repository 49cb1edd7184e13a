"""Times training steps of stage 1 (extractor) and stage 2 (denoiser) beside PyTorch's own ways.

    python benchmarks/training.py --csv training.csv
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import FACTS, facts
from results_csv import append_csv, parse_with_csv
from tqdm import tqdm
from training_loops import DenoiserTask, ExtractorTask, Loop, Peer, Task, build_store, distance, random_latents

from ecgtwin_fast import models
from ecgtwin_fast.engine.cpu_support import precision_reasons

COLUMNS = (
    *("stage", "contestant", "batch", "steps", "warmup", "p20_ms", "p50_ms", "p80_ms", "records_per_s"),
    *("ratio_published", "ratio_best_peer", "loss_distance", "final_loss"),
)
PUBLISHED = "published loop"
TINY = {
    "dit": {"hidden": 64, "depth": 1, "heads": 2, "base_width": 32},
    "ibe": {"hidden": 32, "layers": 1, "heads": 2, "feed_forward": 32},
}
HELP = """\
Times whole training steps, forward, backward and AdamW, on one machine, in turns:

  published loop        eager float32; conditions collated record by record, padded to the longest of the batch
    with extractor      (denoiser) the same, the frozen extractor run on the batch's references, not cached
  eager / compile       PyTorch under autocast to bfloat16, on ready batches, base vectors cached, AdamW fused; "plain
                        attention" keeps scaled_dot_product_attention from its flash kernel, which is slow on CPUs; for
                        compile all reports are padded to one length, so that it compiles once
  ours                  the stages of ecgtwin_fast as `ecgtwin-fast train` runs them, reading the batch included

All start from the same weights and train on the same draws of a store of simulated patients, latents being random.
Their loss curves must agree with the published loop's at every step, within --limit-float32 or --limit-bfloat16, else
the run ends with status 1 and no figure. Ours and the published loop go all --steps, the others --peer-steps.
"""
EPILOG = """\
how to read the table
  ms a step      median over the steps after --warmup; p20 and p80 beside it
  rec/s          records a second; of the extractor, pairs
  x published    median over steps of the published loop's time by this contestant's: above 1 is faster
  x best peer    the same against the fastest of eager and compile
  loss distance  largest relative difference to the published loop's loss at the same step
"""


class WrongCurve(Exception):
    """A contestant's losses left the published loop's."""


class Entry(NamedTuple):
    """A contestant, whether it is one of PyTorch's own ways, runs all steps, and computes in bfloat16."""

    loop: Loop
    peer: bool
    whole: bool
    bfloat16: bool


def entries(task: Task, with_compile: bool) -> dict[str, Entry]:
    found = {PUBLISHED: Entry(task.published(), False, True, False)}
    if isinstance(task, DenoiserTask):
        found[f"{PUBLISHED}, with extractor"] = Entry(task.with_extractor(), False, False, False)
    for compiled, plain in ((False, False), (False, True), (True, True))[: 3 if with_compile else 2]:
        name = ("compile" if compiled else "eager") + " bfloat16" + (", plain attention" if plain else "")
        found[name] = Entry(task.peer(Peer(compiled, plain)), True, False, True)
    found["ours float32"] = Entry(task.ours(False), False, False, False)
    if precision_reasons(torch.bfloat16):
        print(f"ours bfloat16 is left out: {'; '.join(precision_reasons(torch.bfloat16))}")
    else:
        found["ours bfloat16"] = Entry(task.ours(True), False, True, True)
    return found


def measure(task: Task, entered: dict[str, Entry], given: argparse.Namespace) -> list[dict[str, object]]:
    seconds: dict[str, list[float]] = {name: [] for name in entered}
    losses: dict[str, list[float]] = {name: [] for name in entered}
    with tqdm(total=given.steps, desc=task.name, unit="step", disable=None) as bar:
        for step in range(given.steps):
            draw = task.draw(step)
            for name, entry in entered.items():
                if not entry.whole and step >= given.peer_steps:
                    continue
                began = time.perf_counter()
                losses[name].append(entry.loop.step(draw))
                seconds[name].append(time.perf_counter() - began)
            bar.update()
    for name, entry in entered.items():
        limit = given.limit_bfloat16 if entry.bfloat16 else given.limit_float32
        found = distance(losses[name], losses[PUBLISHED])
        if not found <= limit:
            raise WrongCurve(f"{task.name}: losses of {name!r} differ by up to {found:.2g} from the {PUBLISHED}'s "
                             f"at the same step, allowed are {limit:g}")  # fmt: skip
    return rows_of(task, entered, seconds, losses, given)


def rows_of(task, entered, seconds, losses, given) -> list[dict[str, object]]:
    timed = {name: np.array(values[given.warmup :]) for name, values in seconds.items()}
    peers = [name for name, entry in entered.items() if entry.peer]
    best = min(peers, key=lambda name: np.median(timed[name]))

    def ratio(of: str, by: str) -> float:
        steps = min(len(timed[of]), len(timed[by]))
        return float(np.median(timed[of][:steps] / timed[by][:steps]))

    rows = []
    for name in entered:
        p20, p50, p80 = 1e3 * np.quantile(timed[name], [0.2, 0.5, 0.8])
        rows.append(
            {
                "stage": task.name, "contestant": name, "batch": given.batch, "steps": len(losses[name]),
                "warmup": given.warmup, "p20_ms": p20, "p50_ms": p50, "p80_ms": p80,
                "records_per_s": 1e3 * given.batch / p50, "ratio_published": ratio(PUBLISHED, name),
                "ratio_best_peer": ratio(best, name), "loss_distance": distance(losses[name], losses[PUBLISHED]),
                "final_loss": losses[name][-1],
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, object]]) -> str:
    heads = {"p50_ms": "ms a step", "p20_ms": "p20", "p80_ms": "p80", "records_per_s": "rec/s"}
    heads |= {"ratio_published": "x published", "ratio_best_peer": "x best peer", "loss_distance": "loss distance"}
    lines = [f"{rows[0]['stage']}, batch {rows[0]['batch']}", " " * 33 + "".join(f"  {h:>9}" for h in heads.values())]
    for row in rows:
        cells = "".join(f"  {row[column]:>{max(9, len(head))}.3g}" for column, head in heads.items())
        lines.append(f"{row['contestant']:<33}{cells}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = ("extractor", "denoiser")
    parser.add_argument("--stage", nargs="+", choices=stages, default=stages, help="default: both")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="records or pairs a step (default 64)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="compared and timed (default 50)")
    parser.add_argument("--peer-steps", type=int, default=12, metavar="N", help="of all others (default 12)")
    parser.add_argument("--warmup", type=int, default=3, metavar="N", help="steps that are not timed (default 3)")
    parser.add_argument("--people", type=int, default=256, metavar="N", help="simulated patients (default 256)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: shows that the benchmark works")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--limit-float32", type=float, default=1e-3, metavar="X", help="default 1e-3")
    parser.add_argument("--limit-bfloat16", type=float, default=3e-2, metavar="X", help="default 3e-2")
    given = parse_with_csv(parser, COLUMNS + FACTS)
    if not 0 <= given.warmup < given.peer_steps <= given.steps:
        parser.error("--warmup must be less than --peer-steps, and those at most --steps")
    if given.batch > given.people:
        parser.error(f"--batch {given.batch} needs as many --people, of whom there are {given.people}")
    return given


def main() -> int:
    given, known = parse(), facts("cpu")
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    sizes = TINY if given.tiny else {"dit": {}, "ibe": {}}
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(Path(folder) / "store", given.people)
        latents = random_latents(store)
        for stage in given.stage:
            if stage == "extractor":
                task = ExtractorTask(store, latents, given.batch, sizes["ibe"])
            else:
                extractor = models.create("ibe", float_mask=False, **sizes["ibe"])
                task = DenoiserTask(store, latents, given.batch, sizes["dit"], extractor)
            try:
                rows = measure(task, entries(task, not given.no_compile), given)
            except WrongCurve as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            print(f"\n{table(rows)}")
            if given.csv:
                append_csv(given.csv, COLUMNS + FACTS, [row | known for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
