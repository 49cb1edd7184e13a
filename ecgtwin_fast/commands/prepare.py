"""`ecgtwin-fast prepare`: a data set on disk, or a simulated one, becomes a store for training."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StoreError
from .arguments import integer

if TYPE_CHECKING:
    from ..data.prepare import Preparation
    from ..data.sources import Source
    from ..data.store import Store

_DESCRIPTION = """\
Read a data set in its own layout and write a store: signals as the model takes them (1024 samples, 12 leads,
10 s), each with patient, time, age, sex, heart rate and report, as Parquet shards; and each distinct statement
with its embedding. `ecgtwin-fast train` reads the store.

Records that cannot be used are counted by reason and listed in OUT/rejected.parquet. Interrupted, the same
command goes on where it was; when the store is complete, it does nothing.
"""
_EXAMPLES = """\
examples:
  PTB-XL; its fold 10 becomes the test fold:
    ecgtwin-fast prepare ptb-xl ptb-xl-1.0.3 stores/ptb-xl

  MIMIC-IV-ECG, with the age and sex from MIMIC-IV:
    ecgtwin-fast prepare mimic-iv-ecg mimic-iv-ecg-1.0 stores/mimic --patients mimiciv/3.1/hosp/patients.csv.gz

  Any folder of WFDB records; 5000 simulated patients, three visits each:
    ecgtwin-fast prepare wfdb my-records stores/own --keep-unknown
    ecgtwin-fast prepare simulated 5000 stores/simulated --visits 3
"""
_LAYOUTS = {
    "ptb-xl": "SRC holds ptbxl_database.csv, scp_statements.csv and records500/. The report is the English "
    "description of the SCP codes, the test fold the published one, 10.",
    "mimic-iv-ecg": "SRC holds record_list.csv, machine_measurements.csv and files/; patients.csv of MIMIC-IV gives "
    "age and sex. The heart rate is 60000 / rr_interval (ms) where that is plausible, else XQRS finds it. The "
    "published preparation's unit error (rr_interval / 1000, compared with milliseconds) is not repeated.",
    "wfdb": "SRC is a folder of WFDB records at any depth. Age, sex, diagnosis and patient come from the headers' "
    "comments, such as '# Age: 63'; the heart rate, where no comment states it, from XQRS.",
    "simulated": "SRC is the number of patients. Signals and conditions are synthetic; the same seed gives the same.",
}


def add_to(commands) -> None:
    """Add the subcommand `prepare`, with one subcommand of its own for each kind of data."""
    prepare = commands.add_parser(
        "prepare",
        help="turn a data set (PTB-XL, MIMIC-IV-ECG, WFDB, simulated) into a store for training",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    kinds = prepare.add_subparsers(title="data sets", dest="kind", required=True, metavar="KIND")
    for kind, layout in _LAYOUTS.items():
        parser = kinds.add_parser(kind, help=layout.split(". ")[0], description=textwrap.fill(layout, 110))
        parser.set_defaults(run=_run)
        simulated = kind == "simulated"
        parser.add_argument(
            "source", type=integer(1) if simulated else Path, metavar="SRC",
            help="number of patients" if simulated else "folder of the data set",
        )  # fmt: skip
        parser.add_argument("out", type=Path, metavar="OUT", help="folder of the store")
        _own_options(kind, parser)
        _common_options(parser)


def _own_options(kind: str, parser: argparse.ArgumentParser) -> None:
    if kind != "ptb-xl":
        parser.add_argument(
            "--test-share", type=_share, default=0.1, metavar="S",
            help="share of patients in the test fold, drawn by a hash of their names (default %(default)s)",
        )  # fmt: skip
    if kind == "mimic-iv-ecg":
        parser.add_argument(
            "--patients", type=Path, metavar="F", help="patients.csv or .csv.gz (default SRC/hosp/ or SRC/)"
        )
    elif kind == "wfdb":
        parser.add_argument(
            "--patient-from", choices=("auto", "folder", "record"), default="auto",
            help="what tells patients apart: auto takes a comment 'Patient: ...', else a folder such as patient001 or "
            "p10000032, else each record is a patient (default %(default)s)",
        )  # fmt: skip
    elif kind == "simulated":
        parser.add_argument(
            "--visits", type=integer(1), default=2, metavar="N", help="of each patient (default %(default)s)"
        )
        parser.add_argument("--seed", type=integer(0), default=0, metavar="N", help="(default %(default)s)")


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=integer(1), default=os.cpu_count() or 1, metavar="N", help="processes (default %(default)s)"
    )
    parser.add_argument(
        "--text-encoder", default="hash", metavar="NAME",
        help="hash (offline), nomic (as published), or a sentence-transformers name (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--text-width", type=integer(1), default=768, metavar="N", help="of an embedding (default %(default)s)"
    )
    parser.add_argument(
        "--keep-unknown", action="store_true",
        help="keep records without age or sex, at the mean age and half way between the sexes (default: reject them)",
    )  # fmt: skip
    parser.add_argument("--limit", type=integer(1), metavar="N", help="only the first N records")
    parser.add_argument(
        "--shard-size", type=integer(1), default=2048, metavar="N",
        help="records read for a shard, the step by which an interrupted run goes on (default %(default)s)",
    )  # fmt: skip


def _run(given: argparse.Namespace) -> None:
    from ..data.prepare import prepare_store
    from ..data.store import Store, is_complete
    from ..data.store_writer import difference
    from ..data.text import text_encoder

    options = _options(given)
    if is_complete(given.out):
        store = Store(given.out)
        if (store.kind, store.options) != (given.kind, options):
            other = difference({"kind": store.kind} | store.options, {"kind": given.kind} | options)
            raise StoreError(f"{given.out}: holds another finished store ({other}): choose another folder")
        print(f"{given.out} is complete: nothing to do")
        _summarise(store, given)
        return
    encoder = text_encoder(given.text_encoder, given.text_width)
    try:
        done = prepare_store(
            _source(given), given.out, given.kind, options, encoder, given.shard_size, given.keep_unknown, given.workers
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on after the last complete shard", file=sys.stderr)
        raise SystemExit(130) from None
    _summarise(done.store, given)
    _speed(done, given.workers)


def _options(given: argparse.Namespace) -> dict:
    """What decides the store's content and how it is cut, for an unfinished or finished one to be recognised."""
    options = {name: value for name, value in vars(given).items() if name not in ("run", "kind", "out", "workers")}
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in options.items()}


def _source(given: argparse.Namespace) -> Source:
    from ..data.sources import FolderSource, Limited, PTBXLSource, SimulatedSource

    if given.kind == "ptb-xl":
        source = PTBXLSource(given.source)
    elif given.kind == "wfdb":
        source = FolderSource(given.source, given.patient_from, given.test_share)
    elif given.kind == "simulated":
        source = SimulatedSource(given.source, given.visits, given.seed, given.test_share)
    else:
        from ..data.mimic import MIMICSource

        source = MIMICSource(given.source, given.patients, given.test_share, given.keep_unknown)
    return source if given.limit is None else Limited(source, given.limit)


def _summarise(store: Store, given: argparse.Namespace) -> None:
    from ..data.pairs import Pairs

    total, test = len(store), int(store.test.sum())
    people = int(store.person.max(initial=-1)) + 1
    training, held = (len(Pairs(store, store.rows(fold))) for fold in (False, True))
    print(f"records    {total} of {people} patients")
    print(f"test fold  {test} records ({test / max(total, 1):.1%}); no patient is in both folds")
    print(f"pairs      {training} for training, {held} in the test fold")
    print(f"statements {len(store.statements) - 1} distinct, embedded by {store.text_encoder}, {store.text_width} wide")
    print(f"rejected   {sum(store.rejected.values())}, listed in {given.out / 'rejected.parquet'}")
    for reason, count in sorted(store.rejected.items(), key=lambda item: -item[1]):
        print(f"           {count:8d} {reason}")
    if not given.keep_unknown and {"age unknown", "sex unknown"} & set(store.rejected):
        print("           (--keep-unknown keeps records of unknown age or sex)")


def _speed(done: Preparation, workers: int) -> None:
    rate = done.tried / done.seconds
    print(
        f"speed      {done.tried} records in {done.seconds:.1f} s: {rate:.1f} records/s, "
        f"{rate / workers:.1f} for each of {workers} workers"
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, expected 0 up to, not including, 1") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected 0 up to, not including, 1")
    return value
