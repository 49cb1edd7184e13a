"""Philox 4x32-10 and the normal transform: known answers, an independent oracle, distribution, independence."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from scipy import stats

from ecgtwin_fast.philox import INITIAL_STEP, box_muller, normal, philox4x32

KNOWN_ANSWERS = [
    ("00000000" * 4, "00000000" * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff" * 4, "ffffffff" * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a8885a308d313198a2e03707344", "a4093822299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]


def philox_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 on Python's unbounded integers."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b % 2**32, (a >> 32) ^ c[3] ^ k1, a % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def box_muller_scalar(word_a: int, word_b: int) -> tuple[np.float32, np.float32]:
    """The normal transform on NumPy's fp32 scalars, one rounding an operation, written from the definition."""
    f = np.float32
    u = f((word_a >> 9) + 0.5) * f(2.0**-23)
    bits = struct.unpack("<i", struct.pack("<f", u))[0]
    e = (bits - 0x3F3504F3) >> 23
    m = f(struct.unpack("<f", struct.pack("<i", bits - e * 2**23))[0]) - f(1)
    p = f(7.0376836292e-2)
    for c in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1):
        p = p * m + f(c)
    for c in (2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):
        p = p * m + f(c)
    z = m * m
    y = (p * m) * z
    y = y - f(0.5) * z
    log = (m + y) + f(e) * f(0.693147182464599609375)
    radius = np.sqrt(max(f(-2) * log, f(0)))
    a = (f(((word_b >> 7) & 0x7FFFFF) + 0.5) * f(2.0**-23) - f(0.5)) * f(1.57079637050628662109375)
    q = a * a
    s = f(-1.9515295891e-4) * q + f(8.3321608736e-3)
    s = s * q + f(-1.6666654611e-1)
    s = (s * q) * a + a
    c = f(2.443315711809948e-5) * q + f(-1.388731625493765e-3)
    c = c * q + f(4.166664568298827e-2)
    c = ((c * q) * q - f(0.5) * q) + f(1)
    c, s = [(c, s), (-s, c), (-c, -s), (s, -c)][word_b >> 30]
    return radius * c, radius * s


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers_of_philox(counter, key, expected):
    result = philox4x32([torch.tensor([word]) for word in words(counter)], words(key))
    assert [f"{int(word):08x}" for word in result] == expected.split()


def test_philox_equals_integer_arithmetic():
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (200, 4))
    key = rng.integers(0, 2**32, 2).tolist()
    result = torch.stack(philox4x32(torch.from_numpy(counters).unbind(1), key), dim=1)
    assert result.tolist() == [philox_integers(row, key) for row in counters.tolist()]


def test_box_muller_equals_scalar_arithmetic_to_the_bit():
    edges = [0, 1, 2**9, 2**31, 2**30 - 1, 2**30, 3 * 2**30, 2**32 - 1, 0xB504F333, 0x5A827999]
    pairs = [(a, b) for a in edges for b in edges] + np.random.default_rng(1).integers(0, 2**32, (1000, 2)).tolist()
    a, b = torch.tensor(pairs).unbind(1)
    cosine, sine = box_muller(a, b)
    expected = np.array([box_muller_scalar(*pair) for pair in pairs])
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(np.stack([cosine, sine], axis=1), expected)


def test_box_muller_is_close_to_float64():
    a, b = torch.from_numpy(np.random.default_rng(2).integers(0, 2**32, (2, 100_000)))
    radius = (-2 * (((a >> 9).double() + 0.5) * 2.0**-23).log()).sqrt()
    turn = (b >> 30).double() + (((b >> 7) & 0x7FFFFF).double() + 0.5) * 2.0**-23 - 0.5
    cosine, sine = box_muller(a, b)
    assert (cosine - radius * (turn * math.pi / 2).cos()).abs().max() < 2e-6
    assert (sine - radius * (turn * math.pi / 2).sin()).abs().max() < 2e-6


@pytest.mark.parametrize(("seed", "record", "step"), [(0, 0, 0), (2**64 - 1, 2**63 - 1, INITIAL_STEP), (7, 2**32, 3)])
def test_normal_uses_the_documented_counter(seed, record, step):
    draws = normal(seed, [record], step, 10)
    assert draws.dtype == torch.float32 and draws.shape == (1, 10)
    expected = []
    for block in range(3):
        counter = [block, step, record % 2**32, record >> 32]
        r = philox_integers(counter, [seed % 2**32, seed >> 32])
        expected += [*box_muller_scalar(r[0], r[1]), *box_muller_scalar(r[2], r[3])]
    np.testing.assert_array_equal(draws[0].numpy(), np.array(expected[:10]))


def test_normal_is_pinned():
    bits = normal(1234, [0, 2**40 + 5], 17, 4).view(torch.int32).tolist()
    assert bits == [
        [1050282278, 1043923639, 1065956348, 1048198102],
        [-1090030402, 1060721055, -1080561414, -1103116516],
    ]


def test_a_record_does_not_depend_on_its_batch():
    together = normal(5, range(100, 164), 9, 512)
    for index in (100, 131, 163):
        assert torch.equal(together[index - 100], normal(5, [index], 9, 512)[0])
    assert torch.equal(together.flip(0), normal(5, range(163, 99, -1), 9, 512))
    assert torch.equal(together[:, :130], normal(5, range(100, 164), 9, 130))


def test_every_part_of_the_key_matters():
    keys = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 2**32, 0), (0, 0, 1), (0, 0, INITIAL_STEP)]
    draws = torch.stack([normal(seed, [record], step, 4096)[0] for seed, record, step in keys])
    correlation = torch.corrcoef(draws) - torch.eye(len(keys))
    assert correlation.abs().max() < 5 / math.sqrt(4096)


def test_moments_and_distribution_are_standard_normal():
    draws = normal(42, range(500), 0, 2000).double()
    n = draws.numel()
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96), (0, 945), (15, 10170)], start=1):
        assert abs(draws.pow(power).mean() - moment) < 4.5 * math.sqrt(variance / n)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.01


def test_neighbouring_elements_records_and_steps_are_uncorrelated():
    draws = torch.stack([normal(3, range(100), step, 512) for step in range(8)])
    for axis in range(3):
        ahead, behind = draws.narrow(axis, 1, draws.shape[axis] - 1), draws.narrow(axis, 0, draws.shape[axis] - 1)
        products = (ahead * behind).double()
        assert abs(products.mean()) < 4.5 / math.sqrt(products.numel())
        assert abs(((ahead**2 - 1) * (behind**2 - 1)).double().mean()) < 4.5 * 2 / math.sqrt(products.numel())
