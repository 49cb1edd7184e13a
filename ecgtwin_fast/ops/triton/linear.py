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
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x += group * x_group
    weight += group * weight_group
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in tl.range(0, INNER, CHUNK):
        inner = first + tl.arange(0, CHUNK)
        a_mask = (row < rows)[:, None] & (inner < INNER)[None, :]
        b_mask = (inner < INNER)[:, None] & (column < columns)[None, :]
        a = tl.load(x + row.to(tl.int64)[:, None] * INNER + inner[None, :], mask=a_mask, other=0.0)
        b = tl.load(weight + column[None, :] * INNER + inner[:, None], mask=b_mask, other=0.0)
        total = dot(a, b, total)
    if BIASED:
        total += tl.load(bias + group * bias_group + column, mask=column < columns, other=0.0)[None, :]
    places = group * out_group + row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + places, total, mask=(row < rows)[:, None] & (column < columns)[None, :])
