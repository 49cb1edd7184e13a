"""`ecgtwin-fast edit`: twins of a reference, and the same twins with their report changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import NOTICE
from .arguments import integer

_EPILOG = f"""\
examples:
  The same heartbeats with a right instead of a left bundle branch block:
    ecgtwin-fast edit --reference ecg.hea --report "sinus rhythm|left bundle branch block" \\
        --swap "sinus rhythm|right bundle branch block" --out out

  A statement added with rising weight:
    ecgtwin-fast edit --reference ecg.hea --report "sinus rhythm" --add "inferior infarction" \\
        --weight 0.5 1 2 --out out

out/ then holds source_000, edit_000_1 with the first weight and so on (WFDB), edits.png (a source above its edits),
attention.png (what the last edit attends to) and edits.json. Statements correspond by position.
{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "edit",
        help="change the report of twins and keep their heartbeats",
        description="Generate twins of a reference and the same twins under a changed report. Source and edit share "
        "their noise; below a timestep the edit takes the source's attention to the statements.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_edit)
    default = "(default %(default)s)"
    parser.add_argument("--reference", type=Path, required=True, metavar="PATH", help="the patient's own ECG")
    parser.add_argument("--report", required=True, metavar="TEXT", help="of the source twins; '|' parts statements")
    change = parser.add_mutually_exclusive_group(required=True)
    change.add_argument("--swap", metavar="TEXT", help="report of the edits")
    change.add_argument("--add", metavar="TEXT", help="statement that the edits show too")
    parser.add_argument(
        "--weight", type=float, nargs="+", default=[1.0], metavar="W",
        help="of an added statement; one edit for each (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=integer(0, 1000), default=200, metavar="T",
        help=f"timestep below which attention is taken over: larger keeps more of the source {default}",
    )  # fmt: skip
    own = "(default: the reference's)"
    parser.add_argument("--heart-rate", type=float, metavar="BPM", help=f"20..300 {own}")
    parser.add_argument("--age", type=float, metavar="YEARS", help=f"0..120 {own}")
    parser.add_argument("--sex", choices=("F", "M"), help=own)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the records")
    parser.add_argument("--count", type=integer(1), default=1, metavar="N", help=f"twins {default}")
    parser.add_argument("--model", default="bundled", help=f"bundled, a model directory or a hub id {default}")
    parser.add_argument("--sampler", choices=("dpmpp", "ddim", "ddpm"), default="dpmpp", help=default)
    parser.add_argument("--steps", type=integer(1, 1000), default=25, metavar="N", help=f"1..1000 {default}")
    parser.add_argument(
        "--seed", type=integer(0, 2**64 - 1), default=0, metavar="N", help=f"same seed, same twins {default}"
    )
    parser.add_argument("--backend", default="auto", help=f"auto takes the fastest that can run {default}")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help=f"of the arithmetic {default}"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


def _edit(given: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from ..data.preprocess import prepare
    from ..data.record import read_record
    from ..edit_folder import write_edits
    from ..generate import ECGTwin
    from ..staging import check_folder

    check_folder(given.out)
    reference = prepare(read_record(given.reference))
    model = ECGTwin.from_pretrained(given.model, given.device)
    with tqdm(desc="sampling", unit="step") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        editing = model.edit(
            reference,
            given.report,
            swap=given.swap,
            add=given.add,
            weight=given.weight,
            threshold=given.threshold,
            heart_rate=given.heart_rate,
            age=given.age,
            sex=given.sex,
            count=given.count,
            sampler=given.sampler,
            steps=given.steps,
            seed=given.seed,
            backend=given.backend,
            dtype=getattr(torch, given.dtype),
            progress=progress,
        )
    base_vector = model.base_vector(reference)
    write_edits(given.out, editing, model.attention(editing.edits[-1][0], base_vector))
    count = given.count * (1 + len(editing.weights))
    print(f"source     {editing.condition.report}")
    print(f"edit       {editing.edited_report}; weight {', '.join(f'{w:g}' for w in editing.weights)}")
    print(f"backend    {editing.backend}, {given.dtype}: {count} records in {editing.seconds:.2f} s")
    print(f"wrote      {given.out / 'edits.png'}, {given.out / 'attention.png'}, {given.out / 'edits.json'}, records")
    print(NOTICE)
