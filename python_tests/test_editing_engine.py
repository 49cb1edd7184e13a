"""Edits through every backend: published outputs, the definition of edited maps, other sizes, any number of threads."""

from __future__ import annotations

import pytest
import torch
from cpu_engine import DTYPES, needs
from golden_data import golden, inp, relative_error
from golden_networks import TIMESTEPS, load
from torch import Tensor, nn

from ecgtwin_fast import models
from ecgtwin_fast.engine.backends import BACKENDS
from ecgtwin_fast.engine.choice import GPU_BACKENDS
from ecgtwin_fast.engine.edit import Edit
from ecgtwin_fast.engine.latents import generate_latents
from ecgtwin_fast.engine.request import Request
from ecgtwin_fast.errors import BackendError, ConditionError
from ecgtwin_fast.samplers import COEFFICIENTS, Schedule

NAMES = [backend.name for backend in BACKENDS if backend.name not in GPU_BACKENDS]
BY_NAME = {backend.name: backend for backend in BACKENDS}


@pytest.fixture(scope="module")
def dit() -> nn.Module:
    return load("dit")


def padded(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two texts (T, W) as a batch with its mask."""
    both = nn.utils.rnn.pad_sequence([first, second], batch_first=True)
    return both, (torch.arange(both.shape[1]) < torch.tensor([[len(first)], [len(second)]])).float()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["swap", "add"])
def test_golden_editing(dit, mode, name, dtype):
    if name == "cpu":
        needs(dtype)
    source, edited = inp("te5", (3, 5, 768), normalised=True), inp("ee5", (3, 5, 768), normalised=True)
    if mode == "add":
        edited = torch.cat([source, inp("ea1", (3, 1, 768), normalised=True)], dim=1)
    row = torch.tensor([[float(column == "k_eps") for column in COEFFICIENTS]])
    x = torch.stack([inp("x", (3, 4, 128)), inp("xe", (3, 4, 128))], dim=1)
    for record in range(3):
        text, mask = padded(source[record], edited[record])
        patient, base = (inp(key, (3, width))[record].expand(2, -1) for key, width in (("p", 3), ("bv", 256)))
        schedule = Schedule("epsilon", TIMESTEPS[record : record + 1], row)
        edit = Edit(2, torch.tensor([1.0, 0.7]), threshold=1000)
        request = Request(dit, text, mask, patient, base, schedule, 0, 0, x[record], None, dtype, None, edit)
        request.validate()
        assert BY_NAME[name].not_supported_reasons(request) == []
        limit = 5e-6 if dtype == torch.float32 else 2e-2
        for made, part in zip(BY_NAME[name].run(request), ("src", "edit"), strict=True):
            assert relative_error(made, golden(f"{mode}_{part}")[record]) <= limit


def small(heads: int = 2) -> nn.Module:
    torch.manual_seed(3)
    network = models.create("dit", hidden=64, depth=2, heads=heads, base_width=32, text_width=24)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return network.eval().requires_grad_(False)


def group_of(counts: list[int], groups: int = 3) -> dict:
    """Conditions of groups whose members have so many statements; patients differ, base vectors do not."""
    generator = torch.Generator().manual_seed(sum(counts))
    batch, longest = groups * len(counts), max(counts)
    text = torch.randn(batch, longest, 24, generator=generator)
    mask = (torch.arange(longest) < torch.tensor(counts * groups)[:, None]).float()
    base = torch.randn(groups, 32, generator=generator).repeat_interleave(len(counts), 0)
    return {
        "text_embed": text,
        "text_mask": mask,
        "patient": torch.randn(batch, 3, generator=generator),
        "base_vector": base,
    }


def run(network: nn.Module, given: dict, backend: str, edit: Edit | None, sampler: str = "ddpm", **options) -> Tensor:
    options = {"sampler": sampler, "steps": 12, "seed": 5, "edit": edit, "backend": backend} | options
    found = generate_latents(network, **given, **options)
    assert found.backend == backend
    return found.latents


@pytest.mark.parametrize("counts", [[3, 3], [4, 5], [1, 1], [1, 2], [2, 1], [5, 2], [3, 6, 3, 1], [9, 8], [4, 9]])
def test_engine_edits_as_the_reference(counts):
    needs(torch.float32)
    given, network = group_of(counts), small()
    scales = torch.linspace(0.2, 1.5, len(given["text_embed"]))
    edit = Edit(len(counts), scales, threshold=600)
    made, expected = (run(network, given, backend, edit) for backend in ("cpu", "reference"))
    assert relative_error(made, expected) < 1e-5
    plain = run(network, given, "reference", Edit(len(counts), scales, threshold=0))
    changed = (expected - plain).abs().amax((1, 2)) > 1e-3
    sources = torch.arange(len(plain)) % len(counts) == 0
    assert not changed[sources].any()
    # A lone statement has all attention whatever the source does.
    assert (changed[~sources] == (torch.tensor(counts * 3)[~sources] > 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_source_is_the_plain_twin_and_threads_change_nothing(dtype, with_threads):
    needs(dtype)
    given, network = group_of([3, 4], groups=5), small()
    edit = Edit(2, torch.full((10,), 0.5), threshold=1000)
    made = run(network, given, "cpu", edit, dtype=dtype)
    own = {key: value[::2] for key, value in given.items()}
    assert torch.equal(made[::2], run(network, own, "cpu", None, dtype=dtype))
    for threads in (1, 3, 4):
        with_threads(threads)
        assert torch.equal(made, run(network, given, "cpu", edit, dtype=dtype))
    alone = {key: value[4:6] for key, value in given.items()}
    third = run(network, alone, "cpu", Edit(2, torch.full((2,), 0.5), threshold=1000), dtype=dtype, first_index=2)
    assert torch.equal(third, made[4:6])


@pytest.mark.parametrize("name", NAMES)
def test_without_a_threshold_edits_are_twins_of_the_same_draws(name):
    given, network = group_of([2, 2]), small()
    made = run(network, given, name, Edit(2, torch.ones(6), threshold=0), sampler="dpmpp")
    for member in range(2):
        own = {key: value[member::2] for key, value in given.items()}
        assert relative_error(made[member::2], run(network, own, name, None, sampler="dpmpp")) < 1e-5


def test_edited_maps_by_hand():
    maps = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.7, 0.3, 0.0]])[:, None, None]
    edit = Edit(3, torch.tensor([9.0, 0.5, 1.0]))
    out = edit.maps(maps, torch.tensor([3, 3, 2]))[:, 0, 0]
    torch.testing.assert_close(out[0], maps[0, 0, 0])
    torch.testing.assert_close(out[1], maps[0, 0, 0])  # swap: equal counts
    torch.testing.assert_close(out[2], torch.tensor([0.625, 0.375, 0.0]))  # fewer: scaled to a sum of 1
    maps = torch.tensor([[0.4, 0.6, 0.0], [0.2, 0.3, 0.5], [1.0, 0, 0]])[:, None, None]
    added = edit.maps(maps, torch.tensor([2, 3, 1]))
    torch.testing.assert_close(added[1, 0, 0], torch.tensor([0.4, 0.6, 0.25]))  # add: its own, times the scale
    torch.testing.assert_close(added[2, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edit": Edit(4, torch.ones(6))}, "edit.group must be at least 2 and divide the 6 records, but it is 4"),
        ({"edit": Edit(1, torch.ones(6))}, "edit.group must be at least 2"),
        ({"edit": Edit(2, torch.ones(6), 1001)}, "edit.threshold must be 0..1000, but it is 1001"),
        ({"edit": Edit(2, torch.ones(5))}, r"edit.scales must have shape \(6\), but it has \(5,\)"),
        ({"base_vector": torch.randn(6, 32)}, "base_vector must be the same for a source and its edits"),
        ({"text_mask": torch.tensor([[0.0, 1.0]]).expand(6, 2)}, "text_mask must hold its ones before its zeros"),
    ],
)
def test_bad_edits(change, message):
    given = {**group_of([2, 2]), "edit": Edit(2, torch.ones(6)), **change}
    with pytest.raises(ConditionError, match=message):
        generate_latents(small(), **given, steps=2)


def test_other_denoisers_are_not_edited():
    with pytest.raises(BackendError, match="only models.create\\('dit'\\) can be edited, not a function"):
        run(lambda x, *_: x, group_of([2, 2]), "reference", Edit(2, torch.ones(6)))
