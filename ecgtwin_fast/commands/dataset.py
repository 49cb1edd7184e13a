"""`ecgtwin-fast dataset`: a plan becomes a synthetic data set, by one process or many, and is proved complete."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import NOTICE
from .arguments import integer

if TYPE_CHECKING:
    from ..dataset.engine import Engine, Log
    from ..dataset.job import Job
    from ..dataset.run import Summary

FAILURES = 1
"""Exit status of a data set that is complete but for items that failed, or that does not verify."""

_DESCRIPTION = """\
Make a data set of twins from a plan: reference records, conditions, twins of each pair of them. Record i depends
on the plan and on i alone: neither the number of workers nor the engine nor a restart changes a byte.

The plan (YAML) names references, conditions, model and output; docs/dataset_plan.md explains every field.
A run that was interrupted, killed, or ran out of disk goes on when the same command is given again.
"""
_EPILOG = f"""\
OUT then holds the records (data/ or records/), README.md with three lines of code to load them, manifest.jsonl
with the checksum of each shard, and failed.parquet with what could not be made. OUT/run/status.json and
OUT/run/log.jsonl tell about the run.

Exit status: 0 complete, 1 complete but some items failed (see failed.parquet) or --verify found problems,
2 nothing could be done or the run had to stop, 130 interrupted.

examples:
  plan.yaml: five twins of each of 50 simulated patients under two conditions
    references: {{simulated: 50}}
    conditions:
      - {{report: "sinus rhythm"}}
      - {{report: "atrial fibrillation|rapid ventricular response", heart_rate: 130}}
    twins: 5

  On this machine, then reread and proved complete:
    ecgtwin-fast dataset plan.yaml twins
    ecgtwin-fast dataset --verify twins

  On the Ray cluster that this machine is part of, one worker a GPU (pip install 'ecgtwin-fast[ray]'):
    ecgtwin-fast dataset plan.yaml twins --engine ray --address auto

{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "dataset",
        help="make a large data set of twins from a plan; check one",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN", help="plan file (YAML)")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder of the data set")
    parser.add_argument("--verify", type=Path, metavar="DIR", help="reread a data set and prove it complete")
    parser.add_argument(
        "--repair", action="store_true",
        help="with --verify: forget the shards that are damaged, for the same plan to make them again",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: this process, all cores or one GPU; ray: a cluster's workers (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--address", metavar="A", help="of the Ray cluster: auto, HOST:PORT, ray://HOST:PORT (default: start one here)"
    )
    parser.add_argument(
        "--workers", type=integer(1), metavar="N",
        help="Ray workers (default: one a GPU, else one for each --cpus-per-worker CPUs)",
    )  # fmt: skip
    parser.add_argument(
        "--cpus-per-worker", type=integer(1), default=1, metavar="N", help="without GPUs (default %(default)s)"
    )
    parser.add_argument("--device", help="of the local engine: cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--retry-failed", action="store_true", help="make shards with failed items again")
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE", help="keep the run's numbers there, in Prometheus' text format"
    )
    parser.set_defaults(parser=parser)


def _run(given: argparse.Namespace) -> int:
    if given.verify is not None:
        if given.plan is not None:
            given.parser.error("--verify takes the data set's folder alone")
        return _verify(given.verify, given.repair)
    if given.out is None or given.repair:
        given.parser.error("--repair goes with --verify" if given.repair else "PLAN and OUT are needed")
    if given.engine == "local" and (given.address or given.workers):
        given.parser.error("--address and --workers are of --engine ray")
    return _make(given)


def _make(given: argparse.Namespace) -> int:
    from ..dataset.plan import read_plan
    from ..dataset.run import make_dataset

    plan = read_plan(given.plan)

    def open_engine(job: Job, log: Log) -> Engine:
        if given.engine == "local":
            from ..dataset.engine import LocalEngine

            return LocalEngine(job)
        from ..dataset.ray_engine import RayEngine

        return RayEngine(job, given.address, given.workers, given.cpus_per_worker, log)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        summary = make_dataset(
            plan, given.out, open_engine, device=given.device, retry_failed=given.retry_failed, metrics=given.metrics
        )
    except KeyboardInterrupt:
        print("interrupted: finished shards stay, and the same command goes on after them", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return _report(given.out, summary)


def _report(out: Path, summary: Summary) -> int:
    from ..dataset.manifest import FAILED

    facts = summary.facts
    print(f"records    {summary.records} in {out}")
    if summary.failed:
        print(f"failed     {summary.failed}, listed with reasons in {out / FAILED}; --retry-failed tries them again")
    print(f"model      {facts.model} ({facts.model_digest}) by backend {facts.backend} in {facts.dtype}")
    print(f"sampler    {facts.sampler} with {facts.steps} steps, seed {facts.seed}")
    if summary.made:
        rate = summary.made / summary.seconds
        print(f"speed      {summary.made} items in {summary.seconds:.1f} s: {rate:.1f} a second", end="")
        print(f"; devices busy {summary.device_busy:.1%}" + _lost(summary.workers_lost))
    else:
        print("speed      it was complete: nothing to do")
    print(NOTICE)
    return FAILURES if summary.failed else 0


def _lost(workers: int) -> str:
    return f"; {workers} workers lost on the way" if workers else ""


def _verify(out: Path, mend: bool) -> int:
    from ..data.lock import locked
    from ..dataset.progress import RUN
    from ..dataset.verify import repair, verify

    found = verify(out)
    for problem in found.problems:
        print(f"problem    {problem}")
    print(f"verified   {found.records} records, {found.failed} failed items, {found.shards} shards")
    if not found.problems:
        print("complete   nothing missing, nothing twice")
        return 0
    if mend and found.damaged:
        (out / RUN).mkdir(exist_ok=True)
        with locked(out / RUN / "lock", wait=False):
            print(f"repaired   {len(repair(out, found))} shards forgotten: the same plan makes them again")
    return FAILURES
