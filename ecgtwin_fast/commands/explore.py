"""`ecgtwin-fast explore`: a local page to generate, compare and edit twins."""

from __future__ import annotations

import argparse
import sys

from .. import NOTICE
from .arguments import integer

PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EPILOG = f"""\
examples:
  ecgtwin-fast explore
  ecgtwin-fast explore --model path/to/model --port 8000

It needs Gradio: pip install 'ecgtwin-fast[demo]'. The page loads nothing from other computers and sends nothing to
them; uploads and downloads lie in a temporary folder until the command ends.
{NOTICE}
"""


def add_to(commands) -> None:
    """Add the subcommand to an argparse subparsers object."""
    parser = commands.add_parser(
        "explore",
        help="a local page to generate, compare and edit twins",
        description="Serve a page on this computer: choose or upload a reference ECG, generate twins under a report, "
        "compare and measure them on ECG paper, edit them, see what the model attends to, and download them.",
        epilog=_EPILOG,
    )
    parser.set_defaults(run=_explore)
    default = "(default %(default)s)"
    parser.add_argument("--model", default="bundled", help=f"bundled, a model directory or a hub id {default}")
    parser.add_argument(
        "--host", default=LOOPBACK[0],
        help=f"address to serve on; others than loopback can be reached from outside, without a password {default}",
    )  # fmt: skip
    parser.add_argument("--port", type=integer(1, 65535), default=PORT, metavar="N", help=default)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help=f"of the networks' arithmetic {default}"
    )


def _explore(given: argparse.Namespace) -> None:
    import torch

    from ..explorer.model import Explorer
    from ..explorer.serve import serve

    if given.host not in LOOPBACK:
        warning = "anyone who reaches this address can use the page and read what PTB-XL records it finds"
        print(f"warning: {given.host} is not loopback: {warning}", file=sys.stderr)
    explorer = Explorer(given.model, given.device, getattr(torch, given.dtype))
    explorer.warm_up()
    serve(explorer, given.host, given.port)
