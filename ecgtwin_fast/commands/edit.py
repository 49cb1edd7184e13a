"""`ecgtwin-fast edit`: twins of a reference, and the same twins with their report changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import NOTICE
from .arguments import condition_options, integer, sampling, sampling_options

_EPILOG = f"""\
examples:
  A right instead of a left bundle branch block:
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
        help="twins, and the same twins under a changed report",
        description="Generate twins of a reference and the same twins under a changed report. Source and edit share "
        "their noise; below a timestep the edit takes the source's attention to the statements.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_edit)
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
        help="timestep below which attention is taken over: larger takes over more (default %(default)s)",
    )  # fmt: skip
    condition_options(parser)
    sampling_options(parser, count=1)


def _edit(given: argparse.Namespace) -> None:
    from ..data.preprocess import prepare
    from ..data.record import read_record
    from ..edit_folder import write_edits
    from ..generate import ECGTwin
    from ..staging import check_folder

    check_folder(given.out)
    reference = prepare(read_record(given.reference))
    model = ECGTwin.from_pretrained(given.model, given.device)
    with sampling(given) as options:
        names = ("swap", "add", "weight", "threshold", "heart_rate", "age", "sex")
        change = {name: getattr(given, name) for name in names}
        editing = model.edit(reference, given.report, **change, **options)
    base_vector = model.base_vector(reference)
    write_edits(given.out, editing, model.attention(editing.edits[-1][0], base_vector))
    count = given.count * (1 + len(editing.weights))
    print(f"source     {editing.condition.report}")
    print(f"edit       {editing.edited_report}; weight {', '.join(f'{w:g}' for w in editing.weights)}")
    print(f"backend    {editing.backend}, {given.dtype}: {count} records in {editing.seconds:.2f} s")
    print(f"wrote      {given.out / 'edits.png'}, {given.out / 'attention.png'}, {given.out / 'edits.json'}, records")
    print(NOTICE)
