"""What the kernels of a transformer block share: products, norms and GELU on tiles of positions.

Channels are padded with zeros to a power of two, `PADDED`, of which `WIDTH` are real. A tile that later phases of a
kernel read as an operand goes through device memory, where it stays in the L2 cache: tiles kept in registers from one
phase to the next spill.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
NORM_ROWS = tl.constexpr(16)


@triton.jit
def dot(a, b, total=None):
    """Product of tiles, added to the float32 tile `total`."""
    if INTERPRETED:
        # The interpreter multiplies the bits of bfloat16 numbers as if they were integers.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def offsets(ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    """Where the elements of a tile lie whose rows are STRIDE apart."""
    return tl.arange(0, ROWS)[:, None] * STRIDE + tl.arange(0, COLUMNS)[None, :]


@triton.jit
def normalised(x, WIDTH: tl.constexpr, PADDED: tl.constexpr, EPS: tl.constexpr):
    """Rows of x (rows, PADDED) less their mean, over their standard deviation; padding stays zero."""
    centred = x - (tl.sum(x, 1) * (1.0 / WIDTH))[:, None]
    if PADDED != WIDTH:
        centred = tl.where(tl.arange(0, PADDED)[None, :] < WIDTH, centred, 0.0)
    variance = tl.sum(centred * centred, 1) * (1.0 / WIDTH)
    return centred * tl.rsqrt(variance + EPS)[:, None]


@triton.jit
def norm_rows(
    x, out, shift, scale, ROWS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, MODULATED: tl.constexpr
):
    """LayerNorm without affine part, eps 1e-6, of ROWS rows; modulated by `shift` and `scale` (PADDED,)."""
    columns = tl.arange(0, PADDED)
    for first in tl.range(0, ROWS, NORM_ROWS, num_stages=1):
        places = first * PADDED + offsets(NORM_ROWS, PADDED, PADDED)
        y = normalised(tl.load(x + places), WIDTH, PADDED, 1e-6)
        if MODULATED:
            y = y * (1.0 + tl.load(scale + columns))[None, :] + tl.load(shift + columns)[None, :]
        tl.store(out + places, y.to(out.dtype.element_ty))
    tl.debug_barrier()


@triton.jit
def held_operand(source, ROWS: tl.constexpr, PADDED: tl.constexpr, INNER: tl.constexpr):
    """The operand (ROWS, PADDED) of several calls of `times` where a product takes it whole; else nothing."""
    if INNER == PADDED:
        operand = tl.load(source + offsets(ROWS, PADDED, PADDED))
    else:
        operand = 0
    return operand


@triton.jit
def times(
    operand,
    source,
    weight,
    ROWS: tl.constexpr,
    PADDED: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
):
    """(ROWS, PADDED) at `source`, or held as `operand`, times (PADDED, COLUMNS) at `weight`, rows STRIDE apart."""
    if INNER == PADDED:
        total = dot(operand, tl.load(weight + offsets(PADDED, COLUMNS, STRIDE)))
    else:
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for first in tl.range(0, PADDED, INNER):
            a = tl.load(source + first + offsets(ROWS, INNER, PADDED))
            total = dot(a, tl.load(weight + first * STRIDE + offsets(INNER, COLUMNS, STRIDE)), total)
    return total


@triton.jit
def add_product(
    x,
    source,
    weight,
    bias,
    gate,
    ROWS: tl.constexpr,
    PADDED: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    GATED: tl.constexpr,
):
    """x (ROWS, PADDED) += gate * (source @ weight + bias); `gate` and `bias` (PADDED,)."""
    operand = held_operand(source, ROWS, PADDED, INNER)
    for first in tl.range(0, PADDED, COLUMNS):
        y = times(operand, source, weight + first, ROWS, PADDED, INNER, COLUMNS, PADDED)
        add_rows(x + first, y, bias + first, gate + first, ROWS, COLUMNS, PADDED, GATED)


@triton.jit
def add_rows(
    x, y, bias, gate, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr
):
    """Some COLUMNS of x (ROWS, PADDED) += gate * (y + bias); `gate` and `bias` (COLUMNS,)."""
    columns = tl.arange(0, COLUMNS)
    y += tl.load(bias + columns)[None, :]
    if GATED:
        y *= tl.load(gate + columns)[None, :]
    places = offsets(ROWS, COLUMNS, PADDED)
    tl.store(x + places, tl.load(x + places) + y)


@triton.jit
def add_halves(x, y, bias, gate, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr):
    """As `add_rows`, one half of the columns after the other: a whole tile of x beside two accumulators spills."""
    HALF: tl.constexpr = COLUMNS // 2
    left, right = tl.split(tl.permute(tl.reshape(y, [ROWS, 2, HALF]), (0, 2, 1)))
    add_rows(x, left, bias, gate, ROWS, HALF, PADDED, GATED)
    tl.debug_barrier()
    add_rows(x + HALF, right, bias + HALF, gate + HALF, ROWS, HALF, PADDED, GATED)
    tl.debug_barrier()


@triton.jit
def tanh_gelu(x, APPROXIMATE: tl.constexpr):
    """GELU by tanh; APPROXIMATE takes the hardware's tanh, whose error is that of a bfloat16."""
    angle = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    if APPROXIMATE and not INTERPRETED:
        tanh = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
        half = 0.5 * x
        y = half + half * tanh
    else:
        y = x * tl.sigmoid(2.0 * angle)
    return y
