"""What the tests of the CPU engines share."""

from __future__ import annotations

import pytest
import torch

from ecgtwin_fast.engine.packing import layout

DTYPES = [torch.float32, torch.bfloat16]


def runs(dtype: torch.dtype) -> bool:
    """Whether this CPU's engine computes in it."""
    return layout(dtype) is not None


def needs(dtype: torch.dtype) -> None:
    if not runs(dtype):
        pytest.skip(f"this CPU has no {dtype} kernels")
