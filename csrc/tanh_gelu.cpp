// tanh_gelu and its gradient: checks, outputs and launches for CPU and CUDA.
#include "tanh_gelu.h"

#include <ATen/ops/empty_like.h>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

Tensor run(const char* op, const Tensor& x, const Tensor* grad) {
  const Tensor rows = x.contiguous();
  Tensor out = at::empty_like(rows, at::MemoryFormat::Contiguous), grads;
  GeluArgs args{};
  if (grad) {
    check_like(op, "grad", *grad, x.sizes(), x);
    grads = grad->contiguous();
    args.grad = grads.const_data_ptr();
  }
  args.x = rows.const_data_ptr();
  args.out = out.data_ptr();
  args.count = x.numel();
  args.dtype = dtype_of(op, "x", x);
  launch(op, ECGTWIN_KERNEL(tanh_gelu, GeluArgs), args, (x.numel() + kGeluChunk - 1) / kGeluChunk, kGeluChunk, x);
  return out;
}

Tensor tanh_gelu(const Tensor& x) { return run("tanh_gelu", x, nullptr); }

Tensor tanh_gelu_backward(const Tensor& grad, const Tensor& x) { return run("tanh_gelu_backward", x, &grad); }

}  // namespace

ECGTWIN_IMPL({
  m.impl("tanh_gelu", &tanh_gelu);
  m.impl("tanh_gelu_backward", &tanh_gelu_backward);
})

}  // namespace ecgtwin
