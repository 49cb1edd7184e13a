"""Decoder and extractor of backend "graph": on a CPU without capture, on a GPU captured, against the modules."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from cpu_engine import DTYPES
from golden_data import golden, inp, relative_error
from golden_networks import load
from test_cpu_decoder import create
from test_cpu_extractor import MASK, drawn_case
from torch import Tensor, nn

from ecgtwin_fast import extension
from ecgtwin_fast.engine import choice, graph_decoder, graph_extractor
from ecgtwin_fast.engine.cuda_graph import KEPT_GRAPHS
from ecgtwin_fast.engine.decoder import decode
from ecgtwin_fast.engine.extractor import extract
from ecgtwin_fast.engine.gpu_support import machine_reasons
from ecgtwin_fast.engine.graph_decoder import graph_decode
from ecgtwin_fast.engine.graph_extractor import graph_extract
from ecgtwin_fast.errors import BackendError

REASONS = machine_reasons()
needs_gpu = pytest.mark.skipif(bool(REASONS), reason="; ".join(REASONS))
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def check_decoder(decoder: nn.Module, latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Against float64: float32 but for rounding, bfloat16 within twice the error of PyTorch's autocast."""
    exact = copy.deepcopy(decoder).double()(latents.double())
    made = graph_decode(decoder, latents, dtype)
    assert made.dtype == torch.float32
    half = decode(decoder, latents, backend="reference", dtype=torch.bfloat16).signals
    assert relative_error(made, exact) <= (1e-5 if dtype == torch.float32 else 2 * relative_error(half, exact))
    return made


def check_extractor(extractor: nn.Module, given: tuple, dtype: torch.dtype) -> Tensor:
    double = [None if value is None else value.double() for value in given]
    exact = copy.deepcopy(extractor).double().extract_features(double[0].transpose(1, 2), *double[1:])
    made = graph_extract(extractor, dtype, *given)
    assert made.dtype == torch.float32
    half = extract(extractor, *given, backend="reference", dtype=torch.bfloat16).base_vectors
    assert relative_error(made, exact) <= (1e-5 if dtype == torch.float32 else 2 * relative_error(half, exact))
    return made


@every_dtype
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (3, 4, 128)),
        ({"leads": 1, "widths": (8, 8), "latent": 1, "groups": 1}, (1, 1, 40)),
        ({"leads": 5, "widths": (12, 24, 18), "latent": 6, "groups": 6}, (2, 6, 33)),
    ],
)
def test_decoders(dtype, sizes, shape):
    torch.manual_seed(1)
    check_decoder(create(**sizes), torch.randn(shape), dtype)


def test_golden_decoder():
    latents = 0.18215 * inp("x", (3, 4, 128))[:2]
    assert relative_error(check_decoder(load("dec"), latents, torch.bfloat16), golden("dec")) < 2e-2
    assert relative_error(graph_decode(load("dec"), latents, torch.float32), golden("dec")) <= 5e-6


def test_large_batches_are_decoded_in_parts(monkeypatch):
    decoder, latents = create(), torch.randn(5, 4, 16)
    monkeypatch.setattr(graph_decoder, "MOST_RECORDS", 2)
    check_decoder(decoder, latents, torch.float32)
    assert len(graph_decoder._decoders.get(decoder, torch.float32)._graphs) == 2
    assert graph_decode(decoder, latents[:0], torch.float32).shape == (0, 64, 3)


def test_few_graphs_are_kept_and_changed_weights_are_seen():
    decoder = create()
    for length in range(8, 16):
        check_decoder(decoder, torch.randn(2, 4, length), torch.float32)
    assert len(graph_decoder._decoders.get(decoder, torch.float32)._graphs) == KEPT_GRAPHS
    with torch.no_grad():
        decoder[4].conv_1.weight.mul_(3)
    check_decoder(decoder, torch.randn(2, 4, 8), torch.float32)


@every_dtype
@pytest.mark.parametrize("size", range(3))
def test_extractors(dtype, size):
    extractor, given = drawn_case(size)
    check_extractor(extractor, given, dtype)
    check_extractor(extractor, (*given[:2], None, given[3]), dtype)


@every_dtype
@pytest.mark.parametrize(
    ("key", "tokens", "mask"), [("ibe", 5, None), ("ibe_masked_float", 5, MASK), ("ibe_classfree", None, None)]
)
def test_golden_extractor(dtype, key, tokens, mask):
    text = tokens and inp(f"te{tokens}", (3, tokens, 768), normalised=True)
    given = (inp("x", (3, 4, 128)), text, mask, tokens and inp("p", (3, 3)))
    made = check_extractor(load("ibe"), given, dtype)
    assert relative_error(made, golden(key)) <= (5e-6 if dtype == torch.float32 else 2e-2)


def without_gpu(monkeypatch) -> None:
    monkeypatch.setattr(extension, "CUDA_REASON", "the CUDA kernels are not built")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_reason_is_listed(monkeypatch):
    without_gpu(monkeypatch)
    decoder, (extractor, given) = create(), drawn_case(0)
    decoder[2].register_forward_hook(lambda *_: None)
    with pytest.raises(BackendError) as of_decoder:
        decode(decoder, torch.zeros(1, 4, 8), backend="graph", dtype=torch.float16)
    with pytest.raises(BackendError) as of_extractor:
        extract(extractor.double(), *given, backend="graph")
    common = "the CUDA kernels are not built; torch sees no CUDA device; "
    assert str(of_decoder.value) == (
        f"backend 'graph' cannot run the decoder: {common}dtype must be torch.float32 or torch.bfloat16, but it is "
        "torch.float16; the weights must be on a CUDA device, but some are on cpu; "
        "the network has forward hooks, which would not be called"
    )
    assert str(of_extractor.value) == (
        f"backend 'graph' cannot run the extractor: {common}the weights must be torch.float32, but some are "
        "torch.float64; the weights must be on a CUDA device, but some are on cpu"
    )
    with pytest.raises(BackendError, match=r"models.create\('dec'\) alone, and this one is a Identity"):
        decode(nn.Identity(), torch.zeros(1, 4, 8), backend="graph")


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_beside_another_gpu_backend_the_reference_stands_in_and_says_so(monkeypatch, backend):
    without_gpu(monkeypatch)
    choice.say_once.cache_clear()
    decoder, latents = create(), torch.randn(1, 4, 8)
    with pytest.warns(RuntimeWarning, match="using backend 'reference' for the decoder, because backend 'graph'") as w:
        made = decode(decoder, latents, backend=backend)
    assert w[0].filename == __file__
    assert made.backend == "reference" and torch.equal(made.signals, decoder(latents))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(decoder, latents, backend=backend)


@needs_gpu
@every_dtype
def test_networks_on_a_gpu(monkeypatch, dtype):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    decoder, extractor = load("dec").cuda(), load("ibe").cuda()
    for batch in (1, 3, 67):
        latents = torch.randn(batch, 4, 128).cuda()
        check_decoder(decoder, latents, dtype)
        text, patient = torch.randn(batch, 7, 768).cuda(), torch.randn(batch, 3).cuda()
        check_extractor(extractor, (latents, text, (text[..., 0] < 1).float(), patient), dtype)
        check_extractor(extractor, (latents, None, None, None), dtype)
    assert decode(decoder, latents, backend="triton", dtype=dtype).backend == "graph"
    assert extract(extractor, latents, backend="graph", dtype=dtype).backend == "graph"


@needs_gpu
@every_dtype
def test_capture_equals_no_capture(dtype):
    decoder, (extractor, given) = create().cuda(), drawn_case(1)
    extractor, given = extractor.cuda(), [value.cuda() for value in given]
    latents = torch.randn(3, 4, 128).cuda()
    packed = graph_decoder.PackedDecoder(decoder, dtype)
    for _ in range(2):
        assert torch.equal(graph_decode(decoder, latents, dtype), packed._decode(latents))
    with torch.no_grad():
        own = graph_extractor.PackedExtractor(extractor, dtype)
        for _ in range(2):
            assert torch.equal(graph_extract(extractor, dtype, *given), own._extract(*given))


@needs_gpu
def test_auto_leaves_them_until_they_have_been_measured():
    decoder, extractor = load("dec").cuda(), load("ibe").cuda()
    latents = torch.randn(1, 4, 128).cuda()
    assert decode(decoder, latents).backend == extract(extractor, latents).backend == "reference"
