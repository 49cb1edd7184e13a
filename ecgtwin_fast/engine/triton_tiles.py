"""How the Triton kernels cut their work: fixed for a kind of GPU, a precision and a width, never tuned at run time."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """Of one kernel.

    Attributes:
        rows: positions that a program takes. inner: channels of an operand that a product takes at once.
        columns: results of a product at once; in the MLP, hidden units.
        warps, stages: of a program, and of its pipelined loops.
    """

    rows: int
    inner: int
    columns: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """Of the three parts of a block."""

    self_attention: Tile
    condition_attention: Tile
    mlp: Tile


def tiles_for(dtype: torch.dtype, padded: int, length: int, hopper: bool) -> Tiles:
    """Tiles of a block of `padded` channels; `hopper`: 227 KB of shared memory and products of whole warpgroups."""
    if dtype == torch.float32:
        rows, inner = max(16, min(length, 8192 // padded)), min(padded, 16)
        return Tiles(
            Tile(length, inner, min(padded, 64), 8, 2),
            Tile(rows, inner, min(padded, 64), 4, 2),
            Tile(rows, inner, min(padded, 32), 4, 2),
        )
    limit = 32768 if hopper else 16384
    rows = max(16, min(length, limit // padded))
    inner = min(padded, 256)
    warps = 8 if rows * padded > 16384 else 4
    return Tiles(
        Tile(length, inner, min(padded, 64), 8, 2),
        Tile(rows, inner, min(padded, 64), warps, 2),
        Tile(rows, inner, min(padded, 64), warps, 2),
    )
