from __future__ import annotations

import pytest
import torch
from operator_checks import (
    check_compile,
    check_opcheck,
    check_values,
    compiled_operator,
    cpu_kernels,
    every_cpu_level,
    every_dtype,
    poisoned_memory,
)

from ecgtwin_fast import samplers
from ecgtwin_fast.ops import OPERATORS, sampler_step
from ecgtwin_fast.ops.sampler_step import sampler_step_, signed

STEP = OPERATORS["sampler_step"]
FORMS = {
    "ddpm": (samplers.ddpm_schedule(25), 10, False, False),
    "ddpm, noise given": (samplers.ddpm_schedule(25), 10, False, True),
    "ddim, eta 1": (samplers.ddim_schedule(25, eta=1.0), 3, False, False),
    "dpmpp": (samplers.dpm_solver_pp_schedule(25), 7, True, False),
}
every_form = pytest.mark.parametrize("form", FORMS)


def inputs(form: str, shape: tuple[int, ...] = (3, 4, 128)) -> list:
    schedule, index, previous, noise = FORMS[form]
    generator = torch.Generator().manual_seed(5)

    def normal() -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, eps, x0_prev, given = normal(), normal(), normal(), normal()
    row = schedule.coefficients[index]
    return [x, eps, x0_prev if previous else None, given if noise else None, row, 7, 2**40, index]


@every_form
@every_dtype
@every_cpu_level
@pytest.mark.parametrize("shape", [(3, 4, 128), (2, 3, 37), (5, 1)])
def test_values(form, dtype, cpu_level, shape):
    with cpu_kernels(cpu_level):
        check_values(STEP, inputs(form, shape), dtype)


@every_form
@every_cpu_level
def test_float32_bits_are_the_references(form, cpu_level):
    given = [value.float() if isinstance(value, torch.Tensor) else value for value in inputs(form)]
    with cpu_kernels(cpu_level), poisoned_memory():
        actual = sampler_step(*given)
    for a, e in zip(actual, STEP.reference(*given), strict=True):
        assert torch.equal(a, e)


@every_form
def test_opcheck(form):
    check_opcheck(STEP, inputs(form, (2, 4, 6)))


@every_form
def test_traces_whole(form):
    check_compile(STEP, sampler_step, inputs(form, (2, 4, 6)))


def test_steps_of_a_compiled_loop_share_one_graph():
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(sampler_step, fullgraph=True, backend=count)
    x, eps, _, _, row, seed, first, _ = inputs("ddpm", (2, 4, 6))
    for step in range(8):
        actual = compiled(x, eps, None, None, row, seed, first, step)
        assert torch.equal(actual[0], sampler_step(x, eps, None, None, row, seed, first, step)[0])
    assert len(graphs) <= 3, "0, 1 and any other step"


def check_in_place(name: str, given_noise: bool, device: str = "cpu") -> None:
    """Steps in place, keyed on the device, are those of the other operator to the bit."""
    schedule, seed, first = samplers.schedule(name, 4), 2**64 - 5, 2**40
    generator, table = torch.Generator().manual_seed(5), schedule.coefficients.to(device)
    x, *drawn = torch.randn(9, 3, 4, 37, generator=generator).to(device)
    own, clean, keys = x.clone(), torch.zeros_like(x), torch.tensor([signed(seed), first, 0], device=device)
    x0 = None
    for step in range(4):
        eps, noise = drawn[2 * step], drawn[2 * step + 1] if given_noise else None
        x, x0 = sampler_step(x, eps, x0, noise, table[step], seed, first, step)
        sampler_step_(own, clean, eps, noise, table, keys)
        keys[2] += 1
        assert torch.equal(own, x) and torch.equal(clean, x0)


@pytest.mark.parametrize("given_noise", [False, True])
@pytest.mark.parametrize("name", samplers.SCHEDULES)
def test_in_place_with_keys_on_the_device(name, given_noise):
    check_in_place(name, given_noise)


def test_clipping_passes_nan_on():
    x = torch.tensor([[float("nan"), 9.0, -9.0, 0.25]])
    row = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    following, x0 = sampler_step(x, torch.zeros_like(x), None, None, row, 0, 0, 0)
    assert x0[0, 0].isnan() and x0[0, 1:].tolist() == [1.0, -1.0, 0.25]
    assert torch.equal(following[0, 1:], x0[0, 1:])


def test_a_record_does_not_depend_on_its_batch():
    x, eps, _, _, row, seed, first, step = inputs("ddpm", (5, 4, 128))
    whole = sampler_step(x, eps, None, None, row, seed, first, step)[0]
    alone = sampler_step(x[3:4], eps[3:4], None, None, row, seed, first + 3, step)[0]
    assert torch.equal(whole[3:4], alone)


def test_a_gradient_is_a_clear_error():
    given = [
        value.float() if isinstance(value, torch.Tensor) else value for value in inputs("ddpm", (2, 4, 6))
    ]
    given[0].requires_grad_()
    with pytest.raises(NotImplementedError, match="ecgtwin_fast::sampler_step has no gradient"):
        sampler_step(*given)[0].sum().backward()


@pytest.mark.parametrize("shape", [(0, 4, 6), (2, 0)])
def test_nothing_to_do(shape):
    given = inputs("ddpm", shape)
    assert [out.shape for out in compiled_operator(STEP)(*given)] == [torch.Size(shape)] * 2


X, ROW = torch.zeros(2, 4, 6), torch.zeros(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": X[:1]}, r"eps must have shape \[2, 4, 6\].*but it has \[1, 4, 6\]"),
        ({"x0_prev": X[..., :3]}, r"x0_prev must have shape \[2, 4, 6\]"),
        ({"noise": X.double()}, "noise must be Float where x is Float, but it is Double"),
        ({"coefficients": ROW[:7]}, r"coefficients must have shape \[8\]"),
        ({"coefficients": ROW.double()}, "coefficients must be Float where x is Float, but it is Double"),
        ({"step": -1}, "step must be in 0..4294967295, but it is -1"),
        ({"step": 2**32}, "step must be in 0..4294967295, but it is 4294967296"),
        ({"first_index": -3}, "first_index must be 0 or more, but it is -3"),
        ({"x": X.half(), "eps": X.half()}, "x must be float32, bfloat16 or float64, but it is Half"),
        ({"x": X.sum()}, r"x must be \(batch, ...\), but it is a scalar"),
    ],
)
def test_bad_arguments(change, message):
    names = ["x", "eps", "x0_prev", "noise", "coefficients", "seed", "first_index", "step"]
    arguments = dict(zip(names, [X, X, None, None, ROW, 0, 0, 0], strict=True)) | change
    with pytest.raises(RuntimeError, match=f"sampler_step: {message}"):
        sampler_step(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": X[:1]}, r"x0 must have shape \[2, 4, 6\].*but it has \[1, 4, 6\]"),
        ({"eps": X.double()}, "eps must be Float where x is Float, but it is Double"),
        ({"noise": X[..., :3]}, r"noise must have shape \[2, 4, 6\]"),
        ({"coefficients": ROW}, r"coefficients must be \(steps, 8\), but its shape is \[8\]"),
        ({"keys": torch.zeros(4).long()}, r"keys must have shape \[3\]"),
        ({"keys": torch.zeros(3)}, "keys must be Long where x is Float, but it is Float"),
        ({"x": X.mT.contiguous().mT}, "x must be contiguous"),
    ],
)
def test_bad_arguments_in_place(change, message):
    given = {"x": X, "x0": X, "eps": X, "noise": None, "coefficients": ROW[None], "keys": torch.zeros(3).long()}
    with pytest.raises(RuntimeError, match=f"sampler_step_: {message}"):
        sampler_step_(**given | change)
