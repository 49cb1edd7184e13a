"""Launches of Triton kernels as values, so that a program without a GPU can compile what one with a GPU runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.triton.linear import linear as linear_kernel

LINEAR_TILES = {torch.float32: (32, 64, 16), torch.bfloat16: (64, 64, 64)}
"""Rows, columns and inner chunk of a program of a linear layer, by the type of its operands."""


class Launch(NamedTuple):
    """One launch of a kernel: its grid, tensors and integers, compile-time constants, and options of the compiler."""

    kernel: Callable
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants, **self.options)


def linear_launch(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Launch:
    """out (G, M, N), float32, = x (G, M, K) @ weight (G, N, K)^T + bias (G, N); a G of 1 stands for any.

    All are contiguous but for the stride between groups of `out`.
    """
    rows, columns, groups = x.shape[1], weight.shape[1], len(out)
    strides = [0 if tensor is None or len(tensor) == 1 else tensor.stride(0) for tensor in (x, weight, bias)]
    tile = LINEAR_TILES[x.dtype]
    grid = (-(-rows // tile[0]), -(-columns // tile[1]), groups)
    constants = {"INNER": x.shape[-1], "BIASED": bias is not None}
    constants |= dict(zip(("ROWS", "COLUMNS", "CHUNK"), tile, strict=True))
    arguments = (x, weight, weight if bias is None else bias, out, rows, columns, *strides, out.stride(0))
    return Launch(linear_kernel, grid, arguments, constants, {"num_warps": 4, "num_stages": 3})


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `linear_launch`, into a new tensor."""
    out = x.new_empty(max(len(x), len(weight)), x.shape[1], weight.shape[1], dtype=torch.float32)
    linear_launch(x, weight, bias, out)()
    return out
