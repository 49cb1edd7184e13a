"""The Individual Base Extractor on the CPU engine against its reference."""

from __future__ import annotations

import copy

import pytest
import torch
from cpu_engine import DTYPES, needs, runs
from golden_data import golden, inp, relative_error
from golden_networks import load
from torch import Tensor, nn

from ecgtwin_fast import models
from ecgtwin_fast.engine.extractor import extract
from ecgtwin_fast.errors import BackendError

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).float()


def assert_precise(extractor: nn.Module, arguments: tuple, dtype: torch.dtype) -> Tensor:
    double = [None if value is None else value.double() for value in arguments]
    exact = copy.deepcopy(extractor).double().extract_features(double[0].transpose(1, 2), *double[1:])
    made, reference = (extract(extractor, *arguments, backend=name, dtype=dtype) for name in ("cpu", "reference"))
    assert (made.backend, reference.backend) == ("cpu", "reference")
    limit = 1e-5 if dtype == torch.float32 else 2 * relative_error(reference.base_vectors, exact)
    assert relative_error(made.base_vectors, exact) <= limit
    return made.base_vectors


@pytest.fixture(scope="module")
def ibe() -> nn.Module:
    return load("ibe")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("key", "tokens", "mask"), [("ibe", 5, None), ("ibe_masked_float", 5, MASK), ("ibe_classfree", None, None)]
)
def test_golden_extractor(ibe, dtype, key, tokens, mask):
    needs(dtype)
    text = tokens and inp(f"te{tokens}", (3, tokens, 768), normalised=True)
    made = assert_precise(ibe, (inp("x", (3, 4, 128)), text, mask, tokens and inp("p", (3, 3))), dtype)
    if dtype == torch.float32:
        assert relative_error(made, golden(key)) <= 5e-6


SIZES = [
    {"hidden": 64, "layers": 1, "heads": 8, "feed_forward": 128, "channels": 2, "float_mask": False},
    {"hidden": 96, "layers": 2, "heads": 3, "feed_forward": 288, "channels": 4, "float_mask": True},
    {"hidden": 160, "layers": 3, "heads": 4, "feed_forward": 160, "channels": 1, "float_mask": False},
]


def drawn_case(size: int) -> tuple[nn.Module, tuple]:
    torch.manual_seed(size)
    extractor = models.create("ibe", text_width=24, **SIZES[size]).eval().requires_grad_(False)
    length = 64 * (1 + size)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 0]]).float()
    return extractor, (torch.randn(3, SIZES[size]["channels"], length), torch.randn(3, 7, 24), mask, torch.randn(3, 3))


@pytest.mark.parametrize("level", ["avx2", "avx512", "avx512bf16"])
@pytest.mark.parametrize("size", range(len(SIZES)))
def test_other_sizes_and_instruction_sets(at_level, level, size):
    at_level(level)
    extractor, arguments = drawn_case(size)
    for dtype in filter(runs, DTYPES):
        assert_precise(extractor, arguments, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(ibe, dtype):
    needs(dtype)
    latents, text, patient = torch.randn(7, 4, 128), torch.randn(7, 3, 768), torch.randn(7, 3)
    together = extract(ibe, latents, text, None, patient, backend="cpu", dtype=dtype).base_vectors
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for b in range(7):
                own = (value[b : b + 1] for value in (latents, text, patient))
                x, words, numbers = own
                alone = extract(ibe, x, words, None, numbers, backend="cpu", dtype=dtype).base_vectors
                assert torch.equal(alone[0], together[b])
    finally:
        torch.set_num_threads(before)


def test_reasons():
    latents = torch.randn(1, 4, 128)
    odd = models.create("ibe", hidden=64, layers=1, heads=4, feed_forward=96, text_width=8)
    with pytest.raises(BackendError, match="feed-forward width must be a multiple of 64, but it is 96"):
        extract(odd, latents, backend="cpu")
    with pytest.warns(RuntimeWarning, match="using backend 'reference' for the extractor, because .* 96"):
        assert extract(odd, latents).backend == "reference"
    with pytest.raises(BackendError, match="length of a latent must be a multiple of 64, but it is 100"):
        extract(load("ibe"), torch.randn(1, 4, 100), backend="cpu")
    with pytest.raises(BackendError, match="unknown backend 'abacus'"):
        extract(odd, latents, backend="abacus")
