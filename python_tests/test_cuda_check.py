"""csrc/cuda_check.py refuses kernels that spill."""

from __future__ import annotations

import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parents[1] / "csrc"
sys.path.insert(0, str(CSRC))

import cuda_check  # noqa: E402

LOG = """
ptxas warning : Registers are spilled to local memory in function 'second', 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 512 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    24 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers
"""


def test_reads_what_ptxas_says():
    assert cuda_check.kernel_rows(LOG) == [("first", 40, 0), ("second", 255, 56)]


def test_a_spill_is_a_fault():
    assert cuda_check.over_the_bound(cuda_check.kernel_rows(LOG)) == ["second spills 56 bytes, at most 0 are allowed"]


def test_every_cuda_source_is_checked_and_emulated():
    listed = {source.name for source in cuda_check.cuda_sources()}
    assert listed == {source.name for source in (CSRC / "cuda").glob("*.cu")}
