"""GELU in its tanh form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .operator import Operator, Tolerance, compiled, register


def reference(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def tanh_gelu(x: Tensor) -> Tensor:
    """x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): the activation of the denoiser's MLP (Hendrycks and Gimpel 2016).

    Any shape, float32, bfloat16 or float64; the result is contiguous. Differentiable once; computes in float32 (float64
    for float64). Raises RuntimeError for another dtype.
    """
    if compiled(x):
        return torch.ops.ecgtwin_fast.tanh_gelu(x)
    return reference(x)


OPERATOR = Operator(
    "tanh_gelu",
    reference,
    {
        torch.float32: Tolerance(rtol=1e-5, atol=1e-6, cosine=1 - 1e-9, bias=1e-6),
        torch.bfloat16: Tolerance(rtol=2e-2, atol=2e-2, cosine=1 - 1e-4, bias=2e-3),
        torch.float64: Tolerance(rtol=1e-12, atol=1e-12, cosine=1 - 1e-12, bias=1e-12),
    },
)


def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> Tensor:
    return torch.ops.ecgtwin_fast.tanh_gelu_backward(grad, *ctx.saved_tensors)


register("tanh_gelu", _fake, _backward, _save)
register("tanh_gelu_backward", lambda grad, x: _fake(x))
