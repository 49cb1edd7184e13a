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
    """Tiles of a block of `padded` channels.

    `hopper`: 227 KB of shared memory and products of whole warpgroups; otherwise kernels fit into 99 KB.
    """
    columns = min(padded, 64)

    def rows(elements: int) -> int:
        return max(16, min(length, elements // padded))

    if dtype == torch.float32:
        inner = min(padded, 16)
        return Tiles(
            Tile(length, inner, columns, 8, 2),
            Tile(rows(8192), inner, columns, 4, 2),
            Tile(rows(8192), inner, min(padded, 32), 8, 2),
        )
    inner = min(padded, 256)
    if hopper:
        return Tiles(
            Tile(length, inner, columns, 8, 2),
            Tile(rows(32768), inner, columns, 8, 2),
            Tile(rows(32768), inner, columns, 8, 2),
        )
    return Tiles(
        Tile(length, min(padded, 128), columns, 8, 2),
        Tile(rows(16384), inner, columns, 4, 2),
        Tile(rows(16384), inner, min(padded, 32), 4, 2),
    )
