"""Backend "cpu" against the reference: published outputs, many sizes, every sampler, every instruction set."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cpu_engine import DTYPES, needs, runs
from golden_data import golden, inp, relative_error
from golden_networks import TIMESTEPS, ddpm25, load
from torch import Tensor, nn

from ecgtwin_fast import models, samplers
from ecgtwin_fast.engine.cpu import Cpu
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.engine.request import Request
from ecgtwin_fast.errors import BackendError
from ecgtwin_fast.samplers import COEFFICIENTS, Schedule

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).float()


@pytest.fixture(scope="module")
def dit() -> nn.Module:
    return load("dit")


def predict(denoiser: nn.Module, x: Tensor, t: int, conditions: dict[str, Tensor | None], dtype: torch.dtype) -> Tensor:
    """The engine's epsilon: one step of a sampler that returns nothing else."""
    row = torch.tensor([[float(name == "k_eps") for name in COEFFICIENTS]])
    schedule = Schedule("epsilon", torch.tensor([t]), row)
    request = Request(denoiser, **conditions, schedule=schedule, seed=0, first_index=0, x_init=x, noise=None,
                      dtype=dtype, progress=None)  # fmt: skip
    assert Cpu().not_supported_reasons(request) == []
    return Cpu().run(request)


def exact_and_autocast(denoiser: nn.Module, x: Tensor, t: Tensor, conditions: dict) -> tuple[Tensor, Tensor]:
    """Epsilon in float64, and as PyTorch's autocast to bfloat16 gives it."""
    text, mask, patient, base = conditions.values()
    double = copy.deepcopy(denoiser).double()
    exact = double(x.double(), t, text.double(), mask, patient.double(), base.double())
    with torch.autocast("cpu", torch.bfloat16):
        return exact, denoiser(x, t, text, mask, patient, base).float()


def assert_precise(value: Tensor, exact: Tensor, autocast: Tensor, dtype: torch.dtype) -> None:
    error = relative_error(value, exact)
    limit = 1e-5 if dtype == torch.float32 else 2 * relative_error(autocast, exact)
    assert error <= limit, f"relative error {error:.2e}, limit {limit:.2e}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "mask", "key"), [(1, None, "dit_L1"), (5, None, "dit_L5"), (17, None, "dit_L17"),
                                                     (5, MASK, "dit_masked")])  # fmt: skip
def test_golden_dit(dit, dtype, tokens, mask, key):
    needs(dtype)
    x = inp("x", (3, 4, 128))
    conditions = {
        "text_embed": inp(f"te{tokens}", (3, tokens, 768), normalised=True),
        "text_mask": mask,
        "patient": inp("p", (3, 3)),
        "base_vector": inp("bv", (3, 256)),
    }
    rows = [{name: None if value is None else value[b : b + 1] for name, value in conditions.items()} for b in range(3)]
    made = torch.cat([predict(dit, x[b : b + 1], int(TIMESTEPS[b]), rows[b], dtype) for b in range(3)])
    exact, autocast = exact_and_autocast(dit, x, TIMESTEPS, conditions)
    assert_precise(made, exact, autocast, dtype)
    if dtype == torch.float32:
        assert relative_error(made, golden(key)) <= 5e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_ddpm_trajectory(dit, dtype):
    needs(dtype)

    made, reference = (ddpm25(dit, backend, dtype) for backend in ("cpu", "reference"))
    expected = golden("ddpm25")
    limit = 5e-6 if dtype == torch.float32 else 2 * relative_error(reference, expected)
    assert relative_error(made, expected) <= limit


def drawn_case(seed: int) -> tuple[nn.Module, Tensor, int, dict[str, Tensor | None]]:
    """A denoiser of some size, with some conditions."""
    choose = random.Random(seed)
    head, heads = choose.choice([(8, 8), (16, 4), (24, 4), (32, 3), (32, 8), (64, 2), (64, 8), (128, 4), (40, 2)])
    width, text_width = head * heads, choose.choice([8, 24])
    torch.manual_seed(seed)
    denoiser = models.create(
        "dit", hidden=width, heads=heads, depth=choose.randint(1, 3), mlp_ratio=choose.randint(1, 4),
        channels=choose.randint(1, 6), length=choose.choice([64, 128, 192]), text_width=text_width,
        base_width=choose.choice([16, width]),
    )  # fmt: skip
    batch, tokens = choose.randint(1, 7), choose.randint(1, 25)
    mask = None
    if choose.random() < 0.6:
        mask = (torch.rand(batch, tokens) < 0.6).float()
        mask[torch.arange(batch), torch.randint(tokens, (batch,))] = 1
    conditions = {
        "text_embed": torch.randn(batch, tokens, text_width),
        "text_mask": mask,
        "patient": torch.randn(batch, 3),
        "base_vector": torch.randn(batch, denoiser.base_width),
    }
    x = torch.randn(batch, denoiser.channels, denoiser.length)
    return denoiser.eval().requires_grad_(False), x, choose.randrange(1000), conditions


@pytest.mark.parametrize("seed", range(40))
def test_random_sizes(seed):
    denoiser, x, t, conditions = drawn_case(seed)
    exact, autocast = exact_and_autocast(denoiser, x, torch.full((len(x),), t), conditions)
    for dtype in filter(runs, DTYPES):
        assert_precise(predict(denoiser, x, t, conditions, dtype), exact, autocast, dtype)


@pytest.mark.parametrize("level", ["avx2", "avx512", "avx512bf16"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_instruction_set(at_level, level, seed):
    at_level(level)
    denoiser, x, t, conditions = drawn_case(seed)
    exact, autocast = exact_and_autocast(denoiser, x, torch.full((len(x),), t), conditions)
    for dtype in filter(runs, DTYPES):
        assert_precise(predict(denoiser, x, t, conditions, dtype), exact, autocast, dtype)


BATCH, TOKENS, WIDTH, BASE = 32, 3, 24, 16


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    network = models.create("dit", hidden=64, depth=3, heads=4, text_width=WIDTH, base_width=BASE)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def conditions() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(BATCH, TOKENS)
    mask[1::3, 1:] = 0
    mask[3::5, 2:] = 0
    return {
        "text_embed": torch.randn(BATCH, TOKENS, WIDTH, generator=generator),
        "text_mask": mask,
        "patient": torch.randn(BATCH, 3, generator=generator),
        "base_vector": torch.randn(BATCH, BASE, generator=generator),
    }


def rows(conditions: dict[str, Tensor], begin: int, end: int) -> dict[str, Tensor]:
    return {name: value[begin:end] for name, value in conditions.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_a_record_has_the_same_bits_in_any_batch(small, conditions, sampler, dtype):
    needs(dtype)

    def make(begin: int, end: int) -> Tensor:
        return generate_latents(
            small, **rows(conditions, begin, end), sampler=sampler, steps=5, seed=3, first_index=10 + begin,
            backend="cpu", dtype=dtype,
        ).latents  # fmt: skip

    together = make(0, BATCH)
    assert together.isfinite().all() and (together[0] - together[1]).abs().max() > 0.1
    for size in (1, 7):
        for begin in range(0, BATCH, size):
            assert torch.equal(make(begin, min(begin + size, BATCH)), together[begin : begin + size])


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_the_number_of_threads_changes_nothing(small, conditions, threads):
    """Odd batches leave records that several threads share; repeated, because a race is wrong only once in a while."""
    before = torch.get_num_threads()
    many = {**rows(conditions, 0, 5), "sampler": "ddim", "steps": 70, "backend": "cpu"}
    expected = generate_latents(small, **many).latents
    torch.set_num_threads(threads)
    try:
        for _ in range(4):
            assert torch.equal(generate_latents(small, **many).latents, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_noise_and_steps_have_the_bits_of_the_reference(conditions, sampler):
    """A denoiser that predicts a constant leaves nothing but the sampler and its draws."""
    network = models.create("dit", hidden=64, depth=1, heads=4, text_width=WIDTH, base_width=BASE)
    nn.init.zeros_(network.final_layer.weight)
    options = {**rows(conditions, 0, 3), "sampler": sampler, "steps": 9, "seed": 2**64 - 5, "first_index": 2**40}
    made, expected = (generate_latents(network, **options, backend=name).latents for name in ("cpu", "reference"))
    assert torch.equal(made, expected)


def test_twins_share_conditions(small, conditions):
    twins = {name: value[:1].expand(6, *value.shape[1:]) for name, value in conditions.items()}
    made = generate_latents(small, **twins, steps=3, sampler="ddpm", backend="cpu").latents
    expected = generate_latents(small, **twins, steps=3, sampler="ddpm", backend="reference").latents
    assert relative_error(made, expected) <= 1e-5
    assert (made[0] - made[5]).abs().max() > 0.1


def test_changed_weights_are_seen(small, conditions):
    network = copy.deepcopy(small)
    options = {**rows(conditions, 0, 2), "steps": 2, "sampler": "ddim"}
    before = generate_latents(network, **options, backend="cpu").latents
    with torch.no_grad():
        network.blocks[1].mlp[0].weight.mul_(3)
    after = generate_latents(network, **options, backend="cpu").latents
    assert relative_error(after, before) > 1e-4
    assert relative_error(after, generate_latents(network, **options, backend="reference").latents) <= 1e-5


def test_progress_comes_once_for_each_step(small, conditions):
    seen = []
    generate_latents(small, **conditions, steps=30, backend="cpu", progress=lambda *done: seen.append(done))
    assert seen == [(i, 30) for i in range(1, 31)]


def test_what_progress_raises_ends_the_work(small, conditions):
    class Enough(Exception):
        pass

    def progress(done: int, steps: int) -> None:
        if done >= 2:
            raise Enough

    began = time.perf_counter()
    with pytest.raises(Enough):
        generate_latents(small, **conditions, steps=1000, backend="cpu", progress=progress)
    ended = time.perf_counter() - began
    began = time.perf_counter()
    generate_latents(small, **conditions, steps=100, backend="cpu")
    assert ended < 5 * (time.perf_counter() - began)


LATE = """
import time
import torch
from ecgtwin_fast import generate_latents, models
torch.set_num_threads(2)
network = models.create("dit", depth=1).eval()
text, patient, base = torch.zeros(3, 1, 768), torch.zeros(3, 3), torch.zeros(3, 256)

def progress(done, _):
    time.sleep(1)
    raise TimeoutError

try:
    generate_latents(network, text, None, patient, base, steps=100, backend="cpu", progress=progress)
except TimeoutError:
    print("ended")
"""


def test_no_thread_waits_for_one_that_has_ended():
    """Of two threads with a record each and one together, the other has come to that when the first one is told."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", LATE]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=240, check=True)
    assert done.stdout == "ended\n"


INTERRUPTED = """
import signal
import torch
from ecgtwin_fast import generate_latents, models
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
network = models.create("dit").eval()
text, patient, base = torch.zeros(2, 1, 768), torch.zeros(2, 3), torch.zeros(2, 256)
try:
    generate_latents(network, text, None, patient, base, steps=1000, backend="cpu",
                     progress=lambda done, _: print(done, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_keyboard_interrupt_ends_between_steps():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().strip() == "1"
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=240)[0].split()
    assert rest[-1] == "interrupted" and len(rest) < 900


def create(**sizes) -> nn.Module:
    small = {"hidden": 64, "depth": 1, "heads": 4, "text_width": WIDTH, "base_width": BASE}
    return models.create("dit", **small | sizes)


def hooked() -> nn.Module:
    network = create()
    network.blocks[0].register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: create(hidden=48), "width of a head must be a multiple of 8, but width 48 has 4 heads"),
        (lambda: create(length=96), "length of a latent must be a multiple of 64, but it is 96"),
        (hooked, "forward hooks"),
        (lambda: nn.Sequential(nn.Identity()), r"models.create\('dit'\) alone, and this one is a Sequential"),
        (lambda: create().double(), "weights must be torch.float32, but some are torch.float64"),
    ],
)
def test_reasons(conditions, make, reason):
    with pytest.raises(BackendError, match=f"backend 'cpu' cannot run: .*{reason}"):
        generate_latents(make(), **rows(conditions, 0, 2), steps=1, backend="cpu")


def test_reasons_by_precision(at_level, small, conditions):
    with pytest.raises(BackendError, match="dtype must be torch.float32 or torch.bfloat16, but it is torch.float64"):
        generate_latents(small, **conditions, steps=1, backend="cpu", dtype=torch.float64)
    at_level("avx2")
    with pytest.raises(BackendError, match="bfloat16 needs AVX512_BF16, and the CPU kernels in use are avx2"):
        generate_latents(small, **conditions, steps=1, backend="cpu", dtype=torch.bfloat16)
    at_level("generic")
    with pytest.raises(BackendError, match="float32 needs AVX2 and FMA, and the CPU kernels in use are generic"):
        generate_latents(small, **conditions, steps=1, backend="cpu")
    with pytest.warns(RuntimeWarning, match="using backend 'reference', because backend 'cpu' cannot run"):
        assert generate_latents(small, **conditions, steps=1).backend == "reference"
