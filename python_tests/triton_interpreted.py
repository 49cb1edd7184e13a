"""The Triton kernels on the CPU, under Triton's interpreter: run by test_triton.py with TRITON_INTERPRET=1.

Uninitialised memory is NaN throughout. In bfloat16 the interpreter truncates where a GPU rounds to nearest.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import relative_error
from torch import Tensor, nn

from ecgtwin_fast import models, philox, samplers
from ecgtwin_fast.engine import triton_launch, triton_tiles
from ecgtwin_fast.engine.gpu_conditions import project_bases
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.engine.request import Request
from ecgtwin_fast.engine.triton_backend import Triton
from ecgtwin_fast.engine.triton_conditions import folds, known_conditions, token_class
from ecgtwin_fast.engine.triton_denoiser import PackedDenoiser, pack_denoiser
from ecgtwin_fast.engine.triton_launch import linear
from ecgtwin_fast.engine.triton_tiles import Tile, Tiles
from ecgtwin_fast.engine.triton_trajectory import Draws, Trajectory
from ecgtwin_fast.models.ecgtwin import modulate, rotary
from ecgtwin_fast.ops.triton import latents
from ecgtwin_fast.samplers import COEFFICIENTS, Schedule

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
SIZES = {
    "narrow": {"hidden": 32, "heads": 2, "length": 16},
    "folded": {"hidden": 64, "heads": 2, "length": 16},
    "padded": {"hidden": 96, "heads": 3, "length": 32, "mlp_ratio": 1, "channels": 3},
}
BATCH = 3


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def whole(dtype: torch.dtype, padded: int, length: int, hopper: bool) -> Tiles:
    """Tiles as large as can be: the interpreter's time is that of its calls."""
    return Tiles(*[Tile(length, padded, padded, 4, 1)] * 3)


def cut(dtype: torch.dtype, padded: int, length: int, hopper: bool) -> Tiles:
    """Tiles that cut every loop in two."""
    half = padded // 2
    return Tiles(Tile(length, half, half, 4, 1), *[Tile(max(16, length // 2), half, half, 4, 1)] * 2)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(triton_tiles, "tiles_for", whole)
    monkeypatch.setattr(triton_launch, "LINEAR_TILES", dict.fromkeys(TOLERANCE, (64, 512, 64)))


def network(depth: int = 1, **sizes) -> nn.Module:
    torch.manual_seed(0)
    made = models.create("dit", depth=depth, text_width=24, base_width=16, **sizes)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return made.eval().requires_grad_(False)


def conditions(tokens: int, batch: int = BATCH) -> dict[str, Tensor]:
    """Of records with some statements missing, the first not; the last two records share everything."""
    generator = torch.Generator().manual_seed(tokens)
    mask = (torch.rand(batch, tokens, generator=generator) < 0.7).float()
    mask[0] = mask[:, 0] = 1
    given = {
        "text_embed": torch.randn(batch, tokens, 24, generator=generator),
        "text_mask": mask,
        "patient": torch.randn(batch, 3, generator=generator),
        "base_vector": torch.randn(batch, 16, generator=generator),
    }
    for value in given.values():
        value[-1] = value[-2]
    return given


def test_normals_are_those_of_the_definition():
    keys = torch.tensor([2**63 + 5 - 2**64, 0, 7, 2**40 + 3, 2**63 - 1])
    made = torch.empty(4, 24)
    for step in (0, 999, philox.INITIAL_STEP):
        signed = step - 2**32 if step >= 2**31 else step
        latents.draw_latents[(4,)](made, keys, ELEMENTS=24, PADDED=32, STEP=signed)
        torch.testing.assert_close(made, philox.normal(2**63 + 5, keys[1:], step, 24), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("x_groups", "weight_groups"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_linear(dtype, x_groups, weight_groups):
    x, weight = torch.randn(x_groups, 37, 45).to(dtype), torch.randn(weight_groups, 70, 45).to(dtype)
    bias = torch.randn(weight_groups, 70)
    assert relative_error(linear(x, weight, bias), (x.double() @ weight.double().mT) + bias[:, None]) < 1e-6
    assert relative_error(linear(x, weight), (x.double() @ weight.double().mT)) < 1e-6


class Laid:
    """A packed network, a trajectory of records under conditions, and the network in float64."""

    def __init__(self, sizes: dict, dtype: torch.dtype, tiles=whole, tokens: int = 5):
        self.network, self.given = network(**sizes), conditions(tokens)
        self.exact = network(**sizes).double()
        padded, length = 1 << (sizes["hidden"] - 1).bit_length(), sizes["length"]
        self.packed = pack_denoiser(self.network, dtype, tiles(dtype, padded, length, False))
        self.laid = Trajectory(self.packed, BATCH, token_class(tokens))
        text, mask, patient, base = self.given.values()
        self.known = known_conditions(self.packed, text, mask, patient, self.laid.tokens)
        self.bases = project_bases(self.packed.modulation, linear, base)
        self.time = self.network.t_embedder(torch.tensor([3, 700]))
        draws = Draws(2**64 - 3, torch.arange(BATCH) + 2**40, None, None)
        self.laid._fill(self.known, self.bases, samplers.schedule("dpmpp", 2), draws)
        self.laid.modulation_launch(self.bases.rows, self.time)()
        self.laid.buffers.step[1] = 1

    def run(self, launch: int) -> tuple[Tensor, Tensor]:
        """x before and after one of the launches of a step."""
        width, x = self.packed.sizes.width, self.laid.buffers.x
        x.zero_()[..., :width] = 0.3 + torch.randn(x[..., :width].shape)
        before = x[..., :width].double()
        self.laid.step_launches()[launch]()
        assert not x[..., width:].any()
        return before, x[..., :width]

    def modulation(self) -> tuple[Tensor, ...]:
        """The six parts (B, D), float64; record 1 is at the second step."""
        time = self.exact.t_embedder(torch.tensor([3, 700, 3]))
        c = time + self.exact.ib_projector(self.given["base_vector"].double())
        return self.exact.blocks[0].adaLN_modulation(c).chunk(6, dim=-1)


CASES = [("narrow", torch.float32, whole), ("padded", torch.float32, cut), ("narrow", torch.bfloat16, whole)]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("name", "dtype", "tiles"), CASES)
class TestBlock:
    def test_self_attention(self, name, dtype, tiles):
        laid = Laid(SIZES[name], dtype, tiles)
        before, after = laid.run(1)
        shift, scale, gate, *_ = laid.modulation()
        block = laid.exact.blocks[0]
        h = modulate(block.norm(before), shift, scale)
        expected = gate[:, None] * block.attn1(h, h, h, need_weights=False)[0]
        assert relative_error(after - before, expected) < TOLERANCE[dtype]

    def test_mlp(self, name, dtype, tiles):
        laid = Laid(SIZES[name], dtype, tiles)
        before, after = laid.run(3)
        *_, shift, scale, gate = laid.modulation()
        block = laid.exact.blocks[0]
        expected = gate[:, None] * block.mlp(modulate(block.norm(before), shift, scale))
        assert relative_error(after - before, expected) < TOLERANCE[dtype]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "dtype", "tiles", "tokens", "folded"),
    [
        ("narrow", torch.float32, whole, 1, False),
        ("narrow", torch.bfloat16, whole, 16, False),
        ("folded", torch.float32, cut, 5, True),
        ("padded", torch.float32, cut, 17, False),
        ("padded", torch.bfloat16, whole, 5, True),
    ],
)
def test_condition_attention(name, dtype, tiles, tokens, folded):
    laid = Laid(SIZES[name], dtype, tiles, tokens)
    assert folds(laid.packed, laid.laid.tokens) == folded
    assert len(laid.known.keys) == BATCH - 1
    before, after = laid.run(2)
    exact, (text, mask, patient, _) = laid.exact, laid.given.values()
    own = patient[:, None].expand(-1, tokens, -1)
    token = exact.c_pos_embed(exact.text_projector(torch.cat([own, text], dim=-1).double()))
    block = exact.blocks[0]
    expected = block.attn2(block.norm(before), block.norm(token), mask)[0]
    assert relative_error(after - before, expected) < TOLERANCE[dtype]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["narrow", "padded"])
def test_embedding(name):
    laid = Laid(SIZES[name], torch.float32)
    _, after = laid.run(0)
    exact = rotary(laid.exact.x_embedder(laid.laid.buffers.latents.double().mT))
    assert relative_error(after, exact) < 1e-6


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", ["narrow", "padded"])
def test_sampler_step(name, given):
    laid = Laid(SIZES[name], torch.float32)
    buffers, sizes = laid.laid.buffers, laid.packed.sizes
    buffers.clean.normal_()
    rows = [[0.5, 1.2, 0.0, 0.7, 0.3, -0.2, 0.4, 0.9], [0.6, 1.4, 0.8, 0.1, 0.2, 0, 0, 0.5]]
    buffers.coefficients[:2] = torch.tensor(rows)
    noise = torch.randn(2, *buffers.latents.shape) if given else None
    x = torch.randn(BATCH, sizes.length, sizes.width)
    buffers.x.zero_()[..., : sizes.width] = x
    latent, clean = buffers.latents.clone(), buffers.clean.clone()
    laid.laid.step_launches(noise)[-1]()
    eps = laid.network.final_layer(x).mT
    elements = latent[0].numel()
    for record, step in enumerate((0, 1, 0)):
        drawn = philox.normal(2**64 - 3, [2**40 + record], step, elements).view(latent[0].shape)
        z = drawn if noise is None else noise[step, record]
        expected = samplers.step(latent[record], eps[record], clean[record], z, buffers.coefficients[step])
        for made, wanted in zip((buffers.latents[record], buffers.clean[record]), expected, strict=True):
            torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)
    assert buffers.step.tolist() == [1, 2, 1]


def test_a_broken_network_shows(quick):
    laid = Laid(SIZES["narrow"], torch.float32)
    laid.packed.ends.final_weight.fill_(torch.nan)
    laid.laid.step_launches()[-1]()
    assert laid.laid.buffers.latents.isnan().all()


def run(made: nn.Module, given: dict, backend: str = "triton", dtype: torch.dtype = torch.float32, **options) -> Tensor:
    if backend == "reference":
        return generate_latents(made, **given, backend=backend, dtype=dtype, **options).latents
    plan = samplers.schedule(options.pop("sampler", "ddpm"), options.pop("steps"), made.clip_sample_range)
    missing = {"seed": 0, "first_index": 0, "x_init": None, "noise": None, "progress": None}
    request = Request(made, **given, schedule=plan, dtype=dtype, **missing | options)
    request.validate()
    served = Triton("cpu")
    assert served.not_supported_reasons(request) == []
    return served.run(request)


@pytest.mark.parametrize("sampler", samplers.SCHEDULES)
def test_trajectories(quick, sampler):
    made = network(depth=1 + (sampler == "ddpm"), **SIZES["narrow"])
    given, seen = conditions(20), []
    given["text_mask"][1, 3:] = 0
    options = {"sampler": sampler, "steps": 3, "seed": 2**64 - 1, "first_index": 2**33}
    latent = run(made, given, **options, progress=lambda done, steps: seen.append((done, steps)))
    assert relative_error(latent, run(made, given, "reference", **options)) < 1e-5
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bfloat16_is_no_worse_than_autocast(quick):
    made, given = network(depth=2, **SIZES["narrow"]), conditions(3, 2)
    options = {"sampler": "ddim", "steps": 2}
    exact = run(made, given, "reference", **options)
    autocast = relative_error(run(made, given, "reference", torch.bfloat16, **options), exact)
    # Truncation doubles the error of a rounding.
    assert 1e-5 < relative_error(run(made, given, "triton", torch.bfloat16, **options), exact) < 4 * autocast


def test_given_start_and_noise(quick):
    made, given = network(**SIZES["narrow"]), conditions(3)
    options = {"steps": 2, "x_init": torch.randn(BATCH, 4, 16), "noise": torch.randn(2, BATCH, 4, 16)}
    assert relative_error(run(made, given, **options), run(made, given, "reference", **options)) < 1e-5


def test_a_record_does_not_depend_on_its_batch(quick):
    made, given = network(**SIZES["narrow"]), conditions(20)
    given["text_mask"][1, 3:] = 0
    together = run(made, given, "triton", torch.bfloat16, steps=2)
    for record in (0, 2):
        alone = {name: value[record : record + 1] for name, value in given.items()}
        assert torch.equal(run(made, alone, "triton", torch.bfloat16, steps=2, first_index=record)[0], together[record])


def test_buffers_keep_nothing_of_the_call_before(quick):
    made = network(**SIZES["narrow"])
    served = Triton("cpu")
    outcomes = []
    for tokens in (7, 2, 7):
        row = torch.tensor([[float(name == "k_eps") for name in COEFFICIENTS]])
        schedule = Schedule("epsilon", torch.tensor([500]), row)
        request = Request(
            made, **conditions(tokens, 2), schedule=schedule, seed=1, first_index=0, x_init=None, noise=None,
            dtype=torch.float32, progress=None,
        )  # fmt: skip
        outcomes.append(served.run(request))
    assert torch.equal(outcomes[0], outcomes[2]) and not torch.equal(outcomes[0], outcomes[1])


def test_weights_changed_in_place_are_packed_again(quick):
    made, given = network(**SIZES["narrow"]), conditions(2, 2)
    before = run(made, given, steps=1)
    made.final_layer.bias.add_(1)
    after = run(made, given, steps=1)
    assert relative_error(after, run(made, given, "reference", steps=1)) < 1e-5
    assert not torch.equal(before, after)


def test_modulation_is_filled_in_parts(quick, monkeypatch):
    monkeypatch.setattr("ecgtwin_fast.engine.triton_trajectory.MODULATION_BYTES", 2 * 2 * 6 * 32 * 4)
    made, given = network(**SIZES["narrow"]), conditions(2, 2)
    assert relative_error(run(made, given, steps=3), run(made, given, "reference", steps=3)) < 1e-5


def test_trajectories_kept_are_few(quick):
    from ecgtwin_fast.engine.cuda_graph import KEPT_GRAPHS
    from ecgtwin_fast.engine.triton_trajectory import trajectory

    packed: PackedDenoiser = Laid(SIZES["narrow"], torch.float32).packed
    first = trajectory(packed, 1, 16)
    assert trajectory(packed, 1, 16) is first
    for records in range(2, 2 + KEPT_GRAPHS):
        trajectory(packed, records, 16)
    assert len(packed.recent) == KEPT_GRAPHS and trajectory(packed, 1, 16) is not first
