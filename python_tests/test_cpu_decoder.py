"""The CPU engine's decoder against the module: published outputs, many sizes, every instruction set, any batch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from cpu_engine import DTYPES, needs, runs
from golden_data import golden, inp, relative_error
from golden_networks import load
from torch import Tensor, nn

from ecgtwin_fast import ECGTwin
from ecgtwin_fast.engine import choice
from ecgtwin_fast.engine.cpu_decoder import pack_decoder
from ecgtwin_fast.engine.decoder import decode
from ecgtwin_fast.engine.packing import layout
from ecgtwin_fast.errors import BackendError, ECGTwinError
from ecgtwin_fast.models.vae import Decoder


def create(seed: int = 0, **sizes) -> nn.Module:
    """A small decoder whose biases and norms are not the initial zeros and ones."""
    torch.manual_seed(seed)
    decoder = Decoder(**{"leads": 3, "widths": (16, 24, 32), "groups": 8} | sizes)
    for parameter in decoder.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, parameter.detach().mean().item(), 0.2)
    return decoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return create()


def assert_precise(decoder: nn.Module, latents: Tensor) -> None:
    """Both precisions against float64: float32 to 5e-6, bfloat16 within twice the error of PyTorch's autocast."""
    exact = copy.deepcopy(decoder).double()(latents.double())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = relative_error(decoder(latents), exact)
    for dtype, limit in ((torch.float32, 5e-6), (torch.bfloat16, 2 * autocast)):
        if not runs(dtype):
            continue
        made = decode(decoder, latents, backend="cpu", dtype=dtype)
        assert made.backend == "cpu" and made.signals.dtype == torch.float32
        error = relative_error(made.signals, exact)
        assert error <= limit, f"{dtype}: relative error {error:.2e}, limit {limit:.2e}"


def test_golden_decoder():
    decoder, latents = load("dec"), 0.18215 * inp("x", (3, 4, 128))[:2]
    assert relative_error(decode(decoder, latents, backend="cpu").signals, golden("dec")) <= 5e-6
    assert_precise(decoder, latents)


def test_bundled_decoder():
    torch.manual_seed(0)
    assert_precise(ECGTwin.from_pretrained("bundled").networks["decoder"], torch.randn(3, 4, 128))


SIZES = [
    ({"leads": 1, "widths": (8, 8), "latent": 1, "groups": 1}, (1, 1, 128)),
    ({"leads": 12, "widths": (8, 16, 24, 32), "latent": 4, "groups": 8}, (2, 4, 128)),
    ({"leads": 17, "widths": (72, 80), "latent": 6, "groups": 4}, (2, 6, 256)),
    ({"leads": 8, "widths": (24, 8, 136), "latent": 5, "groups": 8}, (1, 5, 384)),
    ({"leads": 2, "widths": (40, 520), "latent": 4, "groups": 2}, (1, 4, 128)),
    ({"leads": 3, "widths": (16,), "latent": 9, "groups": 16}, (3, 9, 128)),
]


@pytest.mark.parametrize("level", ["avx2", "avx512", "avx512bf16"])
@pytest.mark.parametrize(("sizes", "shape"), SIZES)
def test_sizes_at_every_instruction_set(at_level, level, sizes, shape):
    at_level(level)
    decoder = create(seed=shape[2], **sizes)
    assert_precise(decoder, torch.randn(shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_record_has_the_same_bits_in_any_batch_by_any_number_of_threads(small, with_threads, dtype):
    """Odd batches leave records that several threads share; repeated, because a race is wrong only once in a while."""
    needs(dtype)
    latents = torch.randn(11, 4, 128)
    with_threads(1)
    alone = torch.cat([decode(small, latent[None], backend="cpu", dtype=dtype).signals for latent in latents])
    assert alone.isfinite().all() and (alone[0] - alone[1]).abs().max() > 1e-2
    for threads in (1, 2, 3, 8):
        with_threads(threads)
        for size in (1, 2, 5, 7, 11):
            for _ in range(6):
                made = decode(small, latents[:size], backend="cpu", dtype=dtype).signals
                assert torch.equal(made, alone[:size])


def test_no_records(small):
    assert decode(small, torch.zeros(0, 4, 128), backend="cpu").signals.shape == (0, 512, 3)


def test_latents_of_any_layout_and_type(small):
    latents = torch.randn(2, 128, 4).transpose(1, 2)
    expected = small(latents)
    assert relative_error(decode(small, latents, backend="cpu").signals, expected) <= 5e-6
    assert relative_error(decode(small, latents.double(), backend="cpu").signals, expected) <= 5e-6


def test_changed_weights_are_seen():
    decoder, latents = create(), torch.randn(2, 4, 128)
    before = decode(decoder, latents, backend="cpu").signals
    with torch.no_grad():
        decoder[4].conv_1.weight.mul_(3)
    after = decode(decoder, latents, backend="cpu").signals
    assert relative_error(after, before) > 1e-3
    assert relative_error(after, decoder(latents)) <= 5e-6


def test_reference_is_the_module(small):
    latents = torch.randn(2, 4, 128)
    made = decode(small, latents, backend="reference")
    assert made.backend == "reference" and torch.equal(made.signals, small(latents))
    with torch.autocast("cpu", torch.bfloat16):
        expected = small(latents).float()
    assert torch.equal(decode(small, latents, backend="reference", dtype=torch.bfloat16).signals, expected)


def test_auto_takes_the_engine_or_says_why_not(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(small, torch.randn(1, 4, 128)).backend == "cpu"
    choice.say_once.cache_clear()
    latents = torch.randn(1, 4, 96)
    with pytest.warns(RuntimeWarning, match="using backend 'reference' for the decoder, because .* but it is 96"):
        made = decode(small, latents)
    assert made.backend == "reference" and torch.equal(made.signals, small(latents))


def hooked() -> nn.Module:
    decoder = create()
    decoder[2].register_forward_hook(lambda *_: None)
    return decoder


def uneven() -> nn.Module:
    decoder = create()
    decoder[2].groupnorm_1.eps = 1e-3
    return decoder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: create(widths=(12, 32), groups=4), r"widths must be multiples of 8, but they are \[12, 32\]"),
        (hooked, "forward hooks"),
        (uneven, "all GroupNorms must have the same eps"),
        (nn.Identity, r"models.create\('dec'\) alone, and this one is a Identity"),
        (lambda: create().double(), "weights must be torch.float32, but some are torch.float64"),
    ],
)
def test_reasons(make, reason):
    with pytest.raises(BackendError, match=f"backend 'cpu' cannot run the decoder: .*{reason}"):
        decode(make(), torch.zeros(1, 4, 128), backend="cpu")


def test_reasons_by_input_and_precision(at_level, small):
    with pytest.raises(BackendError, match="length of a latent must be a multiple of 128, but it is 64"):
        decode(small, torch.zeros(1, 4, 64), backend="cpu")
    with pytest.raises(BackendError, match="dtype must be torch.float32 or torch.bfloat16, but it is torch.float16"):
        decode(small, torch.zeros(1, 4, 128), backend="cpu", dtype=torch.float16)
    with pytest.raises(BackendError, match="unknown backend 'gpu'; known: auto, cpu, reference"):
        decode(small, torch.zeros(1, 4, 128), backend="gpu")
    at_level("avx2")
    with pytest.raises(BackendError, match="bfloat16 needs AVX512_BF16, and the CPU kernels in use are avx2"):
        decode(small, torch.zeros(1, 4, 128), backend="cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("latents", [torch.zeros(4, 128), torch.zeros(1, 5, 128), torch.zeros(1, 4, 128).long()])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_latents_that_do_not_fit(small, latents, backend):
    with pytest.raises(ECGTwinError, match=r"latents must be floating-point numbers of shape \(B, 4, L\), but they"):
        decode(small, latents, backend=backend)


def call(decoder: nn.Module, **changes) -> Tensor:
    """The operator itself, with some of its arguments changed."""
    packed = pack_decoder(decoder, layout(torch.float32, narrow=True))
    arguments = {
        **packed._asdict(),
        "latents": torch.randn(4, 4, 128),
        "bfloat16": False,
        "threads": 2,
        "status": torch.zeros(2, dtype=torch.int64),
    }
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    return torch.ops.ecgtwin_fast.cpu_decode(**arguments)


def test_status_counts_records_and_ends_the_work(small):
    status = torch.tensor([0, 0])
    call(small, status=status)
    assert status.tolist() == [4, 0]
    status = torch.tensor([0, 1])
    call(small, status=status)
    assert status.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": torch.zeros(4, 128)}, r"latents must be \(batch, channels, length\)"),
        ({"latents": torch.zeros(1, 4, 96)}, "length of latents must be a multiple of 128, but it is 96"),
        ({"latents": torch.zeros(1, 5, 128)}, r"weights\[0\] must have 20 elements, but it has 16"),
        ({"latents": torch.zeros(1, 4, 128).double()}, "latents must be a contiguous Float tensor"),
        ({"weights": lambda tensors: tensors[:-1]}, "weights must have more than"),
        ({"weights": lambda tensors: [*tensors, tensors[0]]}, "more tensors than the layers take"),
        ({"weights": lambda tensors: tensors[:2] + tensors[3:]}, r"weights\[2\] must"),
        ({"weights": []}, "weights must begin with the latent's convolution"),
        ({"layers": []}, "layers must have 7 numbers a layer, but it has 0"),
        ({"layers": lambda numbers: numbers[:-1]}, "layers must have 7 numbers a layer"),
        ({"layers": lambda numbers: [4, *numbers[1:]]}, "layer 0 cannot be"),
        ({"layers": lambda numbers: [*numbers[:3], 3, *numbers[4:]]}, "layer 0 cannot be"),
        ({"layers": lambda numbers: [*numbers[:1], -4, *numbers[2:]]}, "layer 0 has the impossible number -4"),
        ({"leads": 9}, "leads must be in 1..8, but it is 9"),
        ({"threads": 0}, "threads must be at least 1, but it is 0"),
        ({"status": torch.zeros(2)}, "status must be a contiguous Long tensor"),
    ],
)
def test_the_operator_refuses_what_does_not_fit(small, changes, message):
    with pytest.raises(RuntimeError, match=f"cpu_decode: .*{message}"):
        call(small, **changes)
