"""Backend "graph": why it cannot run, and its step against the reference: on a CPU as it is, on a GPU captured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cpu_engine import DTYPES
from golden_data import golden, inp, relative_error
from golden_networks import load
from test_triton import conditions
from torch import nn

from ecgtwin_fast import extension, info, models, samplers
from ecgtwin_fast.engine import gpu_support, graph_trajectory
from ecgtwin_fast.engine.backends import choose
from ecgtwin_fast.engine.cuda_graph import KEPT_GRAPHS
from ecgtwin_fast.engine.edit import Edit
from ecgtwin_fast.engine.graph_backend import SERVED, Graph
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.engine.request import Request
from ecgtwin_fast.errors import BackendError

REASONS = gpu_support.machine_reasons()
needs_gpu = pytest.mark.skipif(bool(REASONS), reason="; ".join(REASONS))
every_network = pytest.mark.parametrize("name", SERVED.values())
every_sampler = pytest.mark.parametrize("sampler", samplers.SCHEDULES)
CONDITIONS = ("text_embed", "text_mask", "patient", "base_vector")


def network(name: str = "dit", **sizes) -> nn.Module:
    """A small denoiser whose biases and norms are not the initial zeros and ones."""
    torch.manual_seed(0)
    sizes = {"hidden": 48, "heads": 3, "depth": 2, "length": 36, "channels": 3, **sizes}
    made = models.create(name, text_width=24, base_width=16, **sizes)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return made.eval().requires_grad_(False)


def request(denoiser: nn.Module, given: dict, sampler: str = "ddpm", steps: int = 3, **options) -> Request:
    keys = {"seed": 2**64 - 3, "first_index": 2**40, "x_init": None, "noise": None, "progress": None}
    keys |= {"dtype": torch.float32, **options}
    return Request(denoiser, **given, schedule=samplers.schedule(sampler, steps), **keys)


def reference(asked: Request, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return generate_latents(
        asked.denoiser, *(getattr(asked, name) for name in CONDITIONS), sampler=asked.schedule.name,
        steps=asked.schedule.steps, seed=asked.seed, first_index=asked.first_index, x_init=asked.x_init,
        noise=asked.noise, backend="reference", dtype=dtype,
    ).latents  # fmt: skip


def check(made: torch.Tensor, asked: Request, limit: float = 1e-5) -> None:
    """Float32 is the reference's but for rounding; bfloat16 has at most twice the error of PyTorch's autocast."""
    exact = reference(asked)
    assert made.shape == asked.shape and made.dtype == torch.float32
    if asked.dtype == torch.float32:
        assert relative_error(made, exact) < limit
    else:
        assert relative_error(made, exact) <= 2 * relative_error(reference(asked, torch.bfloat16), exact)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def graph() -> Graph:
    return Graph("cpu")


def test_every_reason_is_listed(monkeypatch):
    monkeypatch.setattr(extension, "CUDA_REASON", "the CUDA kernels are not built")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    denoiser = models.create("dit", hidden=145, heads=1, depth=1, text_width=24, base_width=16)
    denoiser.final_layer.half()
    denoiser.register_forward_hook(lambda *given: None)
    given = conditions(2, 5)
    given["text_mask"] = None
    given["base_vector"][1] = given["base_vector"][0]
    with pytest.raises(BackendError) as caught:
        edit = Edit(2, torch.ones(2))
        generate_latents(denoiser, **given, steps=1, edit=edit, dtype=torch.float16, backend="graph")
    for reason in (
        "backend 'graph' cannot run: the CUDA kernels are not built",
        "torch sees no CUDA device",
        "dtype must be torch.float32 or torch.bfloat16, but it is torch.float16",
        "it does not edit records",
        "the weights must be torch.float32, but some are torch.float16",
        "the weights must be on a CUDA device, but some are on cpu",
        "forward hooks",
        "the width must be even, but it is 145",
        "the width of a head must be at most 128, but width 145 has 1 heads",
    ):
        assert reason in str(caught.value)


@pytest.mark.parametrize("denoiser", [lambda x, *_: x, "unet_adax"])
def test_another_denoiser_is_a_reason(denoiser):
    given, kind = conditions(), "function"
    if isinstance(denoiser, str):
        denoiser, given, kind = models.create(denoiser), conditions(3, 5, 768, 256), "UNetAdaX"
    wanted = r"models.create\('dit'\) and models.create\('dit_adaln'\) and models.create\('dit_attn'\) alone"
    with pytest.raises(BackendError, match=f"it runs the denoiser {wanted}, and this one is a {kind}"):
        generate_latents(denoiser, **given, steps=1, backend="graph")


def test_info_names_it():
    assert info.build()["Graph engine"] == (f"no: {'; '.join(REASONS)}" if REASONS else "float32, bfloat16")


def test_importing_the_backend_touches_no_gpu():
    code = "import ecgtwin_fast.engine.backends, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


@every_network
@every_sampler
@pytest.mark.parametrize("dtype", DTYPES)
def test_trajectories(graph, poisoned, name, sampler, dtype):
    asked = request(network(name), conditions(3, 5), sampler, dtype=dtype)
    assert graph.not_supported_reasons(asked) == []
    check(graph.run(asked), asked)


@every_network
@pytest.mark.parametrize("dtype", DTYPES)
def test_given_noise_many_statements_and_no_mask(graph, poisoned, name, dtype):
    given = conditions(5, 23) | {"text_mask": None}
    noise, x_init = torch.randn(3, 5, 3, 36), torch.randn(5, 3, 36)
    asked = request(network(name), given, noise=noise, x_init=x_init, dtype=dtype)
    check(graph.run(asked), asked)


def test_a_mask_may_hide_any_statement(graph, poisoned):
    given = conditions(3, 5)
    given["text_mask"][0] = torch.tensor([0, 1, 0, 1, 0])
    asked = request(network(), given)
    check(graph.run(asked), asked)


def of_golden(name: str, steps: int, **options) -> Request:
    """The golden trajectory's conditions and draws."""
    conditions = (inp("te5", (3, 5, 768), normalised=True), None, inp("p", (3, 3)), inp("bv", (3, 256)))
    noise = torch.stack([inp(f"n{i}", (3, 4, 128)) for i in range(steps)])
    given = dict(zip(CONDITIONS, conditions, strict=True))
    return request(load(name), given, steps=steps, x_init=inp("x0", (3, 4, 128)), noise=noise, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@every_network
def test_published_denoisers(graph, name, dtype):
    asked = of_golden(name, 2, dtype=dtype)
    check(graph.run(asked), asked)


def test_golden_ddpm_trajectory(graph):
    assert relative_error(graph.run(of_golden("dit", 25)), golden("ddpm25")) < 1e-5


@every_network
def test_one_trajectory_serves_every_schedule_report_and_seed(graph, poisoned, name, monkeypatch):
    denoiser, calls = network(name), []
    for batch, tokens, sampler, steps in [(3, 5, "dpmpp", 5), (3, 8, "ddim", 2), (3, 1, "ddpm", 7)]:
        asked = request(
            denoiser, conditions(batch, tokens), sampler, steps, seed=steps, first_index=tokens,
            progress=lambda done, of: calls.append((done, of)),
        )  # fmt: skip
        calls.clear()
        check(graph.run(asked), asked)
        assert calls == [(done, steps) for done in range(1, steps + 1)]
    packed = graph._denoisers.get(denoiser, torch.float32)
    assert len(packed.recent) == 1
    for batch in range(1, 2 + KEPT_GRAPHS):
        graph.run(request(denoiser, conditions(batch, 3), steps=1))
    assert len(packed.recent) == KEPT_GRAPHS


def test_the_table_of_the_modulation_is_filled_in_parts(graph, poisoned, monkeypatch):
    monkeypatch.setattr(graph_trajectory, "MODULATION_BYTES", 2 * 3 * 2 * 6 * 48 * 4)
    asked = request(network(), conditions(3, 5), steps=5)
    check(graph.run(asked), asked)
    monkeypatch.setattr(graph_trajectory, "MODULATION_BYTES", 1)
    asked = request(network(), conditions(3, 5), steps=5)
    check(graph.run(asked), asked)


@pytest.mark.parametrize("dtype", DTYPES)
@every_network
def test_a_record_does_not_depend_on_its_batch(graph, name, dtype):
    denoiser, given = network(name), conditions(5, 5)
    together = graph.run(request(denoiser, given, "ddpm", first_index=7, dtype=dtype))
    alone = {key: value[3:4] for key, value in given.items()}
    made = graph.run(request(denoiser, alone, "ddpm", first_index=10, dtype=dtype))
    # Products of other shapes may round otherwise.
    assert relative_error(made[0], together[3]) < (1e-5 if dtype == torch.float32 else 3e-2)


def test_changed_weights_are_seen(graph):
    denoiser = network()
    asked = request(denoiser, conditions(3, 5))
    before = graph.run(asked)
    with torch.no_grad():
        denoiser.blocks[1].attn2.kv_proj.weight.mul_(2)
        denoiser.blocks[0].adaLN_modulation[1].bias.add_(0.3)
    after = graph.run(asked)
    assert relative_error(after, before) > 1e-3
    check(after, asked)


def test_what_progress_raises_ends_the_run_and_leaves_the_next_one_right(graph):
    def interrupt(done: int, _: int) -> None:
        raise KeyboardInterrupt

    denoiser, given = network(), conditions(3, 5)
    with pytest.raises(KeyboardInterrupt):
        graph.run(request(denoiser, given, progress=interrupt))
    asked = request(denoiser, given, "dpmpp")
    check(graph.run(asked), asked)


@needs_gpu
@every_network
@every_sampler
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_step_is_reused_for_other_samplers_steps_and_seeds(name, sampler, dtype):
    denoiser, graph = network(name).cuda(), Graph()
    graph.run(request(denoiser, conditions(5, 5), "ddim", 2, dtype=dtype))
    (trajectory,) = graph._denoisers.get(denoiser, dtype).recent._values.values()
    captured = trajectory._replayed._graph
    assert captured is not None
    for seed in (1, 2**64 - 1):
        asked = request(denoiser, conditions(5, 7), sampler, 8 + seed % 3, seed=seed, dtype=dtype)
        check(graph.run(asked), asked, limit=1e-4)
    assert trajectory._replayed._graph is captured


@needs_gpu
@every_network
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given_noise", [False, True])
def test_capture_equals_no_capture(name, dtype, given_noise):
    denoiser = network(name).cuda()
    noise = torch.randn(4, 5, 3, 36) if given_noise else None
    asked = request(denoiser, conditions(5, 9), steps=4, noise=noise, dtype=dtype)
    captured, uncaptured = Graph().run(asked), Uncaptured().run(asked)
    assert torch.equal(captured, uncaptured)


class Uncaptured(Graph):
    """Runs the step itself where the backend would replay it."""

    def run(self, asked: Request) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ecgtwin_fast.engine.cuda_graph.captured", _Replay)
            return super().run(asked)


class _Replay:
    def __init__(self, work):
        self.replay = work


@needs_gpu
def test_two_streams_and_two_networks():
    first, second = network("dit").cuda(), network("dit_attn").cuda()
    asked = [request(denoiser, conditions(3, 5), steps=20) for denoiser in (first, second, first)]
    expected, made = [Graph().run(each) for each in asked], []
    graph = Graph()
    for each in asked:
        with torch.cuda.stream(torch.cuda.Stream()):
            made.append(graph.run(each))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


@needs_gpu
def test_threads_capture_beside_each_other():
    denoiser = network("dit").cuda()
    asked = [request(denoiser, conditions(records, 5), steps=20) for records in (1, 2, 3, 4)]
    expected, graph = [Graph().run(each) for each in asked], Graph()
    with ThreadPoolExecutor(len(asked)) as pool:
        made = list(pool.map(graph.run, asked))
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_published_size_on_a_gpu(dtype):
    asked = request(load("dit").cuda(), conditions(33, 25, 768, 256), "dpmpp", 10, dtype=dtype)
    backend = choose("graph", asked)
    assert backend.name == "graph"
    check(backend.run(asked), asked, limit=1e-4)


@needs_gpu
def test_auto_leaves_it_until_it_has_been_measured():
    dit = load("dit").cuda()
    assert generate_latents(dit, **conditions(1, 3, 768, 256), steps=1).backend == "reference"
