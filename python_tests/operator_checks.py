"""What every operator is tested for; a test file states its operator's inputs and calls these."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from ecgtwin_fast import extension
from ecgtwin_fast.ops.operator import Operator, Tolerance

LEVELS = ["generic", "avx2", "avx512", "avx512bf16"]
if extension.MODULE is not None:
    LEVELS = LEVELS[: LEVELS.index(extension.MODULE.best_cpu_level()) + 1]

every_cpu_level = pytest.mark.parametrize("cpu_level", LEVELS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


@contextlib.contextmanager
def cpu_kernels(level: str) -> Iterator[None]:
    """Runs the CPU kernels of one instruction set."""
    before = extension.MODULE.cpu_level()
    assert extension.MODULE.set_cpu_level(level) == level
    try:
        yield
    finally:
        extension.MODULE.set_cpu_level(before)


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN, so that an output that is not wholly written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(8).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def compiled_operator(operator: Operator) -> Callable:
    """The compiled operator, without the outputs that only its gradient needs."""
    raw = raw_operator(operator)
    if operator.saved_outputs == 0:
        return raw
    return lambda *inputs: raw(*inputs)[: -operator.saved_outputs]


def raw_operator(operator: Operator) -> Callable:
    return getattr(torch.ops.ecgtwin_fast, operator.name).default


def as_tuple(value) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def converted(inputs: Sequence, dtype: torch.dtype, grad: bool = False) -> list:
    """float64 tensors in another dtype, each keeping its strides; anything else as it is."""

    def convert(value):
        if not (isinstance(value, Tensor) and value.dtype == torch.float64):
            return value
        copy = torch.empty_strided(value.shape, value.stride(), dtype=dtype).copy_(value)
        return copy.requires_grad_(grad)

    return [convert(value) for value in inputs]


def rounded(inputs: Sequence, dtype: torch.dtype) -> list:
    """float64 inputs that hold only what `dtype` can hold: the exact result is that of the same inputs."""
    narrow = converted(inputs, dtype)
    return [n.double() if n is not value else value for n, value in zip(narrow, inputs, strict=True)]


def check_vectors(actual: Tensor, expected: Tensor, tolerance: Tolerance, what: str) -> None:
    actual, expected = actual.double().flatten(), expected.double().flatten()
    cosine = float(torch.dot(actual, expected) / (actual.norm() * expected.norm()))
    bias = float((actual - expected).mean().abs() / expected.square().mean().sqrt())
    assert cosine >= tolerance.cosine, (
        f"{what}: cosine {cosine} with float64, at least {tolerance.cosine} wanted"
    )
    assert bias <= tolerance.bias, f"{what}: mean error {bias} of the RMS, at most {tolerance.bias} wanted"


def root_mean_square(value: Tensor) -> float:
    return float(value.square().mean().sqrt())


def check_twice(actual: Tensor, own: Tensor, exact: Tensor, what: str) -> None:
    """The RMS error against float64 is at most twice PyTorch's own, or half a unit in the last place of the RMS."""
    if actual.dtype == torch.float64:
        return
    error = root_mean_square(actual.double() - exact)
    allowed = 2 * root_mean_square(own.double() - exact)
    one_rounding = torch.finfo(actual.dtype).eps / 2 * root_mean_square(exact)
    assert error <= max(allowed, one_rounding), f"{what}: error {error}, twice PyTorch's own is {allowed}"


def check_values(
    operator: Operator, inputs: Sequence, dtype: torch.dtype, function: Callable | None = None
) -> None:
    """`function`, or else the compiled operator, against the reference in this dtype and in float64.

    Memory is poisoned.
    """
    given, tolerance = converted(inputs, dtype), operator.tolerances[dtype]
    with poisoned_memory():
        actual = as_tuple((function or compiled_operator(operator))(*given))
    own = as_tuple(operator.reference(*given))
    exact = as_tuple(operator.reference(*rounded(inputs, dtype)))
    assert len(actual) == len(own)
    for i, (a, o, e) in enumerate(zip(actual, own, exact, strict=True)):
        assert a.is_contiguous() and a.dtype == dtype
        torch.testing.assert_close(a, o, rtol=tolerance.rtol, atol=tolerance.atol)
        check_twice(a, o, e, f"output {i}")
        check_vectors(a, e, tolerance, f"output {i}")


def gradients(function: Callable, inputs: Sequence, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of a fixed random projection of the outputs, in the inputs' order."""
    given = converted(inputs, dtype, grad=True)
    outputs = as_tuple(function(*given))
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) for out in outputs
    ]
    leaves = [value for value in given if isinstance(value, Tensor) and value.requires_grad]
    return list(torch.autograd.grad(outputs, leaves, weights))


def check_gradients(
    operator: Operator, inputs: Sequence, dtype: torch.dtype, function: Callable | None = None
) -> None:
    """The gradients of `check_values`' function against the reference's in this dtype and in float64."""
    tolerance = operator.tolerances[dtype]
    with poisoned_memory():
        actual = gradients(function or compiled_operator(operator), inputs, dtype)
    own = gradients(operator.reference, inputs, dtype)
    exact = gradients(operator.reference, rounded(inputs, dtype), torch.float64)
    for i, (a, o, e) in enumerate(zip(actual, own, exact, strict=True)):
        check_twice(a, o, e, f"gradient {i}")
        check_vectors(a, e, tolerance, f"gradient {i}")


def check_gradcheck(operator: Operator, inputs: Sequence) -> None:
    leaves = [value.clone().requires_grad_() if isinstance(value, Tensor) else value for value in inputs]
    assert torch.autograd.gradcheck(compiled_operator(operator), leaves)


def check_opcheck(operator: Operator, inputs: Sequence) -> None:
    """torch.library.opcheck, with gradients where the operator has them."""
    torch.library.opcheck(
        raw_operator(operator), converted(inputs, torch.float32, operator.differentiable)
    )


def check_compile(operator: Operator, public: Callable, inputs: Sequence) -> None:
    """The public function traces without a graph break into the operator, and gives what it gives in eager mode."""
    torch._dynamo.reset()
    given, graphs = converted(inputs, torch.float32), []

    def keep_graph(graph: torch.fx.GraphModule, _) -> Callable:
        graphs.append(graph)
        return graph

    compiled = torch.compile(lambda *args: public(*args), fullgraph=True, backend=keep_graph)
    for actual, expected in zip(as_tuple(compiled(*given)), as_tuple(public(*given)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert [operator.name in str(node.target) for graph in graphs for node in graph.graph.nodes].count(
        True
    ) == 1
