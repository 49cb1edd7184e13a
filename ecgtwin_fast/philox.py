"""Random numbers by counter: Philox 4x32-10 (Salmon et al., SC 2011), normals by the method of Box and Muller.

A number is a function of (seed, record, step, element) and of nothing else, so a record is the same in any batch,
shard, backend or number of workers. `element` is the flat index in one record's latent: channel * length +
position. The C++ and CUDA kernels agree with this module to the bit: every fp32 operation below is one IEEE
rounding, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF

INITIAL_STEP = 0xFFFFFFFF
"""The step under which a trajectory's initial latent is drawn; the sampler's own steps are 0, 1, 2, ..."""

LN2 = 0.693147182464599609375
HALF_PI = 1.57079637050628662109375
SQRT_HALF_BITS = 0x3F3504F3
# Cephes' logf, sinf and cosf, highest power first.
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def philox4x32(counter: Sequence[Tensor | int], key: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox 4x32.

    Args:
        counter: four words, integers or int64 tensors that broadcast; at least one tensor. key: two words.
            Words are in 0..2^32-1.

    Returns:
        Four int64 tensors of words in 0..2^32-1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A product of two words may wrap around int64; its 64 bits are still those of the unsigned product.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & MASK) ^ c1 ^ k0,
            product1 & MASK,
            ((product0 >> 32) & MASK) ^ c3 ^ k1,
            product0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return tuple(torch.broadcast_tensors(c0, c1, c2, c3))


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _log(u: Tensor) -> Tensor:
    """Natural logarithm of fp32 numbers in (0, 1)."""
    bits = u.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - exponent * (1 << 23)).view(torch.float32) - 1.0
    square = f * f
    y = (_horner(f, LOG) * f) * square
    return (f + (y - square * 0.5)) + exponent.float() * LN2


def _rotate(quadrant: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) of an angle plus `quadrant` right angles."""
    odd = (quadrant & 1) == 1
    rotated_cosine = torch.where(odd, -sine, cosine)
    rotated_sine = torch.where(odd, cosine, sine)
    half_turn = quadrant >= 2
    return (
        torch.where(half_turn, -rotated_cosine, rotated_cosine),
        torch.where(half_turn, -rotated_sine, rotated_sine),
    )


def box_muller(words_a: Tensor, words_b: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals, fp32, from two random words (int64 tensors of one shape).

    The upper 23 bits of `words_a` give the radius; the upper 2 bits of `words_b` the quadrant of the angle and
    the following 23 the angle within it. Values lie within +-5.77.
    """
    u = ((words_a >> 9).float() + 0.5) * 2.0**-23
    # By way of float64, because PyTorch's fp32 square root is not correctly rounded on every CPU.
    radius = (_log(u) * -2.0).clamp(min=0.0).double().sqrt().float()
    a = ((((words_b >> 7) & 0x7FFFFF).float() + 0.5) * 2.0**-23 - 0.5) * HALF_PI
    square = a * a
    sine = (_horner(square, SIN) * square) * a + a
    cosine = ((_horner(square, COS) * square) * square - square * 0.5) + 1.0
    cosine, sine = _rotate(words_b >> 30, cosine, sine)
    return radius * cosine, radius * sine


def normal(
    seed: int,
    record_indices: Tensor | Sequence[int],
    step: int,
    elements: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normal draws of some records at one step.

    Args:
        seed: 0..2^64-1. record_indices: B record indices, each 0..2^63-1, in any order.
        step: index of the sampler's step (0 = first performed), or INITIAL_STEP for the initial latent.
        elements: numbers a record; element e of a record is number e of its flattened latent.
        device: where to draw; by default that of `record_indices`.

    Returns:
        float32 (B, elements). Row b depends on record_indices[b] alone; its first numbers do not depend on `elements`.
    """
    seed = int(seed)
    records = torch.as_tensor(record_indices, dtype=torch.int64, device=device)[:, None]
    blocks = torch.arange((elements + 3) // 4, dtype=torch.int64, device=records.device)
    counter, key = (blocks, step, records & MASK, records >> 32), (seed & MASK, seed >> 32 & MASK)
    r0, r1, r2, r3 = philox4x32(counter, key)
    normals = torch.stack([*box_muller(r0, r1), *box_muller(r2, r3)], dim=-1)
    return normals.flatten(1)[:, :elements]
