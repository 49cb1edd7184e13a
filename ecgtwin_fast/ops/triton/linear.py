"""Batched linear layers whose rows do not depend on how many there are: a library may take another kernel then."""

from __future__ import annotations

import triton
import triton.language as tl

from .products import dot


@triton.jit(do_not_specialize=["rows", "columns", "x_group", "weight_group", "bias_group", "out_group"])
def linear(
    x,
    weight,
    bias,
    out,
    rows,
    columns,
    x_group,
    weight_group,
    bias_group,
    out_group,
    INNER: tl.constexpr,
    BIASED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """out (rows, columns) = x (rows, INNER) @ weight (columns, INNER)^T + bias (columns,), for each of some groups.

    One program for ROWS x COLUMNS of one group; `*_group` are strides from group to group.
    """
    group = tl.program_id(2).to(tl.int64)
    first_row, first_column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    x += group * x_group + first_row.to(tl.int64) * INNER
    weight += group * weight_group + first_column * INNER
    out += group * out_group + first_row.to(tl.int64) * columns + first_column
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    is_row, is_column = row < rows - first_row, column < columns - first_column
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(0, INNER, CHUNK):
        inner = first + tl.arange(0, CHUNK)
        is_inner = inner < INNER
        a = tl.load(x + row[:, None] * INNER + inner[None, :], mask=is_row[:, None] & is_inner[None, :], other=0.0)
        at_b = column[None, :] * INNER + inner[:, None]
        b = tl.load(weight + at_b, mask=is_inner[:, None] & is_column[None, :], other=0.0)
        total = dot(a, b, total)
    if BIASED:
        bias += group * bias_group + first_column
        total += tl.load(bias + column, mask=is_column, other=0.0)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], total, mask=is_row[:, None] & is_column[None, :])
