"""The ends of a step: embedding of the latents, and final projection with the sampler's step and its noise.

Latents are (records, CHANNELS, LENGTH), float32; `keys` (1 + records,) int64 holds the seed and every record's index.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ... import philox
from .products import NORM_ROWS, offsets

HALF_PI, LN2 = tl.constexpr(philox.HALF_PI), tl.constexpr(philox.LN2)
SQRT_HALF_BITS = tl.constexpr(philox.SQRT_HALF_BITS)
LOG, SIN, COS = tl.constexpr(philox.LOG), tl.constexpr(philox.SIN), tl.constexpr(philox.COS)


@triton.jit
def _horner(x, COEFFICIENTS: tl.constexpr, COUNT: tl.constexpr):
    value = tl.zeros_like(x) + COEFFICIENTS[0]
    for i in tl.static_range(1, COUNT):
        value = value * x + COEFFICIENTS[i]
    return value


@triton.jit
def _log(u):
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - exponent * 8388608).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    y = (_horner(f, LOG, 9) * f) * square
    return (f + (y - square * 0.5)) + exponent.to(tl.float32) * LN2


@triton.jit
def _box_muller(words_a, words_b):
    u = ((words_a >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    radius = tl.sqrt_rn(tl.maximum(_log(u) * -2.0, 0.0))
    fraction = ((words_b >> 7) & 0x7FFFFF).to(tl.int32).to(tl.float32)
    a = ((fraction + 0.5) * 1.1920928955078125e-07 - 0.5) * HALF_PI
    square = a * a
    sine = (_horner(square, SIN, 3) * square) * a + a
    cosine = ((_horner(square, COS, 3) * square) * square - square * 0.5) + 1.0
    quadrant = (words_b >> 30).to(tl.int32)
    odd = (quadrant & 1) == 1
    rotated_cosine, rotated_sine = tl.where(odd, -sine, cosine), tl.where(odd, cosine, sine)
    sign = tl.where(quadrant >= 2, -radius, radius)
    return sign * rotated_cosine, sign * rotated_sine


@triton.jit
def normals(seed, record, step, COUNT: tl.constexpr):
    """The first COUNT draws (a multiple of 4) of `ecgtwin_fast.philox.normal` for a record at a step (int32 bits)."""
    blocks = tl.arange(0, COUNT // 4)
    low, high = (record & 0xFFFFFFFF).to(tl.uint32), (record >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, blocks, blocks * 0 + step, low, high)
    first, second = _box_muller(a, b)
    third, fourth = _box_muller(c, d)
    return tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [COUNT])


@triton.jit
def draw_latents(latents, keys, ELEMENTS: tl.constexpr, PADDED: tl.constexpr, STEP: tl.constexpr):
    """Latents drawn under STEP (as a signed word), one program a record; PADDED is a power of two >= ELEMENTS."""
    record = tl.program_id(0)
    drawn = normals(tl.load(keys), tl.load(keys + 1 + record), STEP, PADDED)
    elements = tl.arange(0, PADDED)
    tl.store(latents + record * ELEMENTS + elements, drawn, mask=elements < ELEMENTS)


@triton.jit
def embed_latents(
    latents,
    x,
    weight,
    bias,
    cosine,
    sine,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    PADDED: tl.constexpr,
):
    """x = rotary(latents^T @ weight + bias), one program for 16 positions of a record.

    weight, bias: (2, CHANNELS, PADDED) and (2, PADDED), as they are and with their halves rotated, which makes
    the encoding linear. cosine, sine: (LENGTH, PADDED).
    """
    record, first = tl.program_id(0), tl.program_id(1) * NORM_ROWS
    columns, rows = tl.arange(0, PADDED), first + tl.arange(0, NORM_ROWS)
    plain = tl.zeros([NORM_ROWS, PADDED], tl.float32) + tl.load(bias + columns)[None, :]
    rotated = tl.zeros([NORM_ROWS, PADDED], tl.float32) + tl.load(bias + PADDED + columns)[None, :]
    for channel in tl.static_range(CHANNELS):
        value = tl.load(latents + (record * CHANNELS + channel) * LENGTH + rows)[:, None]
        plain += value * tl.load(weight + channel * PADDED + columns)[None, :]
        rotated += value * tl.load(weight + (CHANNELS + channel) * PADDED + columns)[None, :]
    places = first * PADDED + offsets(NORM_ROWS, PADDED, PADDED)
    embedded = plain * tl.load(cosine + places) + rotated * tl.load(sine + places)
    tl.store(x + record * (LENGTH * PADDED) + places, embedded)


@triton.jit
def sampler_step(
    x,
    latents,
    clean,
    epsilon,
    noise,
    keys,
    step,
    coefficients,
    weight,
    bias,
    CHANNELS: tl.constexpr,
    LENGTH: tl.constexpr,
    PADDED: tl.constexpr,
    ELEMENTS: tl.constexpr,
    GIVEN: tl.constexpr,
):
    """epsilon = (x @ weight^T + bias)^T, then `samplers.step` on the latents and the counter; one program a record.

    weight, bias: (CHANNELS, PADDED) and (CHANNELS,). clean: the x0 of the step before, like the latents, and then of
    this one. noise: (steps, records, CHANNELS, LENGTH) where it is GIVEN. coefficients: (steps, 8). ELEMENTS is a power
    of two >= CHANNELS * LENGTH.
    """
    record = tl.program_id(0)
    start = record * (CHANNELS * LENGTH)
    columns = tl.arange(0, PADDED)
    for first in tl.range(0, LENGTH, NORM_ROWS):
        tile = tl.load(x + (record * LENGTH + first) * PADDED + offsets(NORM_ROWS, PADDED, PADDED))
        for channel in tl.static_range(CHANNELS):
            row = tl.load(weight + channel * PADDED + columns)
            predicted = tl.sum(tile * row[None, :], 1) + tl.load(bias + channel)
            tl.store(epsilon + start + channel * LENGTH + first + tl.arange(0, NORM_ROWS), predicted)
    tl.debug_barrier()

    done = tl.load(step + record)
    coefficients += done * 8
    sigma, inv_alpha, clip = tl.load(coefficients), tl.load(coefficients + 1), tl.load(coefficients + 2)
    k_x, k_x0, k_prev = tl.load(coefficients + 3), tl.load(coefficients + 4), tl.load(coefficients + 5)
    k_eps, k_noise = tl.load(coefficients + 6), tl.load(coefficients + 7)
    elements = tl.arange(0, ELEMENTS)
    real = elements < CHANNELS * LENGTH
    places = start + elements
    z, eps = tl.load(latents + places, mask=real), tl.load(epsilon + places, mask=real)
    limit = tl.where(clip > 0, clip, float("inf"))
    x0 = tl.maximum((z - sigma * eps) * inv_alpha, -limit, propagate_nan=tl.PropagateNan.ALL)
    x0 = tl.minimum(x0, limit, propagate_nan=tl.PropagateNan.ALL)
    z = k_x * z + k_x0 * x0
    if k_prev != 0:
        z += k_prev * tl.load(clean + places, mask=real)
    z += k_eps * eps
    if k_noise != 0:
        if GIVEN:
            given = noise + done.to(tl.int64) * (tl.num_programs(0) * CHANNELS * LENGTH) + places
            z += k_noise * tl.load(given, mask=real)
        else:
            z += k_noise * normals(tl.load(keys), tl.load(keys + 1 + record), done, ELEMENTS)
    tl.store(latents + places, z, mask=real)
    tl.store(clean + places, x0, mask=real)
    tl.debug_barrier()
    tl.store(step + record, done + 1)
