"""The three parts of a denoiser's block (models/ecgtwin.py, AdaXBlock), one kernel each.

x is the residual stream (records, LENGTH, PADDED), float32, changed in place. `scratch_a` and `scratch_b` are like x
in the type of the products. `modulation` points at a block's (6, PADDED) of the first row of a table with
MODULATION_STRIDE from row to row: a record at its step reads row `base_of[record] * PLACES + step[record] % PLACES`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import add_halves, add_product, dot, held_operand, norm_rows, offsets, tanh_gelu, times


@triton.jit
def _modulation_of(modulation, base_of, step, record, PLACES: tl.constexpr, MODULATION_STRIDE: tl.constexpr):
    row = tl.load(base_of + record) * PLACES + tl.load(step + record) % PLACES
    return modulation + row * MODULATION_STRIDE


@triton.jit
def self_attention(
    x,
    scratch_a,
    scratch_b,
    modulation,
    base_of,
    step,
    query_key_value,
    query_bias,
    output,
    output_bias,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD: tl.constexpr,
    PLACES: tl.constexpr,
    MODULATION_STRIDE: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x += gate1 * attention(norm(x) * (1 + scale1) + shift1), one program a record.

    query_key_value: (3, heads, PADDED, HEAD), queries times log2(e) / sqrt(HEAD). query_bias: (PADDED,) likewise; a
    bias of the keys cancels in the softmax, and that of the values is in `output_bias`. output: (PADDED, PADDED).
    """
    record = tl.program_id(0)
    start = record * (LENGTH * PADDED)
    x, scratch_a, scratch_b = x + start, scratch_a + start, scratch_b + start
    modulation = _modulation_of(modulation, base_of, step, record, PLACES, MODULATION_STRIDE)
    norm_rows(x, scratch_a, modulation, modulation + PADDED, LENGTH, WIDTH, PADDED, True)

    dtype: tl.constexpr = scratch_a.dtype.element_ty
    channels = tl.arange(0, HEAD)
    operand = held_operand(scratch_a, LENGTH, PADDED, INNER)
    for first in tl.range(0, PADDED, HEAD):
        weight = query_key_value + first * PADDED
        query = times(operand, scratch_a, weight, LENGTH, PADDED, INNER, HEAD, HEAD)
        query = (query + tl.load(query_bias + first + channels)[None, :]).to(dtype)
        key = times(operand, scratch_a, weight + PADDED * PADDED, LENGTH, PADDED, INNER, HEAD, HEAD).to(dtype)
        value = times(operand, scratch_a, weight + 2 * PADDED * PADDED, LENGTH, PADDED, INNER, HEAD, HEAD).to(dtype)
        scores = dot(query, tl.trans(key))
        shares = tl.exp2(scores - tl.max(scores, 1)[:, None])
        total = tl.sum(shares, 1)
        attended = dot(shares.to(dtype), value) * (1.0 / total)[:, None]
        tl.store(scratch_b + first + offsets(LENGTH, HEAD, PADDED), attended.to(dtype))
    tl.debug_barrier()
    gate = modulation + 2 * PADDED
    add_product(x, scratch_b, output, output_bias, gate, LENGTH, PADDED, INNER, COLUMNS, True)


@triton.jit
def condition_attention(
    x,
    scratch_a,
    scratch_b,
    condition_of,
    keys,
    score_bias,
    values,
    query,
    query_bias,
    output,
    output_bias,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    HEAD: tl.constexpr,
    TOKENS: tl.constexpr,
    KEY_STRIDE: tl.constexpr,
    BIAS_STRIDE: tl.constexpr,
    VALUE_STRIDE: tl.constexpr,
    FOLDED: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x += attention of norm(x) to the tokens of the record's condition, one program for ROWS positions of a record.

    query, query_bias: (PADDED, PADDED) and (PADDED,), less their mean over the channels, so that the queries' norm only
    has to divide by their length. keys: (TOKENS, PADDED) a condition, times the scale of the queries' norm and
    log2(e) / sqrt(HEAD); score_bias: (heads, TOKENS), the keys' products with its shift, -inf where a token is padding.
    values: (TOKENS, PADDED), and the output projection follows; or FOLDED, through it: (heads, TOKENS, PADDED).
    """
    record = tl.program_id(0)
    start = (record * LENGTH + tl.program_id(1) * ROWS) * PADDED
    x, scratch_a, scratch_b = x + start, scratch_a + start, scratch_b + start
    norm_rows(x, scratch_a, x, x, ROWS, WIDTH, PADDED, False)

    dtype: tl.constexpr = scratch_a.dtype.element_ty
    operand = held_operand(scratch_a, ROWS, PADDED, INNER)
    squares = tl.zeros([ROWS], tl.float32)
    for first in tl.range(0, PADDED, COLUMNS):
        part = times(operand, scratch_a, query + first, ROWS, PADDED, INNER, COLUMNS, PADDED)
        part += tl.load(query_bias + first + tl.arange(0, COLUMNS))[None, :]
        squares += tl.sum(part * part, 1)
        tl.store(scratch_b + first + offsets(ROWS, COLUMNS, PADDED), part.to(dtype))
    tl.debug_barrier()

    inverse = tl.rsqrt(squares * (1.0 / WIDTH) + 1e-5)
    condition = tl.load(condition_of + record)
    keys, score_bias = keys + condition * KEY_STRIDE, score_bias + condition * BIAS_STRIDE
    values += condition * VALUE_STRIDE
    HALF: tl.constexpr = PADDED // 2
    if FOLDED:
        lower, upper = tl.zeros([ROWS, HALF], tl.float32), tl.zeros([ROWS, HALF], tl.float32)
    for first in tl.range(0, PADDED, HEAD):
        part = tl.load(scratch_b + first + offsets(ROWS, HEAD, PADDED))
        key = tl.load(keys + first + offsets(TOKENS, HEAD, PADDED))
        bias = tl.load(score_bias + first // HEAD * TOKENS + tl.arange(0, TOKENS))
        scores = dot(part, tl.trans(key)) * inverse[:, None] + bias[None, :]
        shares = tl.exp2(scores - tl.max(scores, 1)[:, None])
        shares = (shares * (1.0 / tl.sum(shares, 1))[:, None]).to(dtype)
        if FOLDED:
            value = values + first // HEAD * (TOKENS * PADDED)
            lower = dot(shares, tl.load(value + offsets(TOKENS, HALF, PADDED)), lower)
            upper = dot(shares, tl.load(value + HALF + offsets(TOKENS, HALF, PADDED)), upper)
        else:
            attended = dot(shares, tl.load(values + first + offsets(TOKENS, HEAD, PADDED)))
            tl.store(scratch_a + first + offsets(ROWS, HEAD, PADDED), attended.to(dtype))
    if FOLDED:
        add_halves(x, lower, output_bias, x, ROWS, HALF, PADDED, False)
        add_halves(x + HALF, upper, output_bias + HALF, x, ROWS, HALF, PADDED, False)
    else:
        tl.debug_barrier()
        add_product(x, scratch_a, output, output_bias, x, ROWS, PADDED, INNER, COLUMNS, False)


@triton.jit
def mlp(
    x,
    scratch_a,
    modulation,
    base_of,
    step,
    up,
    up_bias,
    down,
    down_bias,
    LENGTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    UNITS: tl.constexpr,
    PLACES: tl.constexpr,
    MODULATION_STRIDE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """x += gate2 * mlp(norm(x) * (1 + scale2) + shift2), one program for ROWS positions of a record.

    up: (UNITS / CHUNK, PADDED, CHUNK), up_bias: (UNITS,), down: (UNITS, PADDED), down_bias: (PADDED,).
    """
    record = tl.program_id(0)
    start = (record * LENGTH + tl.program_id(1) * ROWS) * PADDED
    x, scratch_a = x + start, scratch_a + start
    modulation = _modulation_of(modulation, base_of, step, record, PLACES, MODULATION_STRIDE) + 3 * PADDED
    norm_rows(x, scratch_a, modulation, modulation + PADDED, ROWS, WIDTH, PADDED, True)

    dtype: tl.constexpr = scratch_a.dtype.element_ty
    HALF: tl.constexpr = PADDED // 2
    operand = held_operand(scratch_a, ROWS, PADDED, INNER)
    lower, upper = tl.zeros([ROWS, HALF], tl.float32), tl.zeros([ROWS, HALF], tl.float32)
    for first in tl.range(0, UNITS, CHUNK):
        units = times(operand, scratch_a, up + first * PADDED, ROWS, PADDED, INNER, CHUNK, CHUNK)
        units = tanh_gelu(units + tl.load(up_bias + first + tl.arange(0, CHUNK))[None, :], APPROXIMATE).to(dtype)
        weight = down + first * PADDED
        lower = dot(units, tl.load(weight + offsets(CHUNK, HALF, PADDED)), lower)
        upper = dot(units, tl.load(weight + HALF + offsets(CHUNK, HALF, PADDED)), upper)
    gate = modulation + 2 * PADDED
    add_halves(x, lower, down_bias, gate, ROWS, HALF, PADDED, True)
    add_halves(x + HALF, upper, down_bias + HALF, gate + HALF, ROWS, HALF, PADDED, True)
