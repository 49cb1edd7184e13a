// LayerNorm without affine, modulated by shift and scale (AdaLN), alone or after a gated residual:
//   sum = x + gate * y        out = (sum - mean) * rstd * (1 + scale) + shift
// Arithmetic for CPU and CUDA, and the arguments of the kernels.
#pragma once

#include "common.h"
#include "kernel.h"
#include "norm.h"

namespace ecgtwin {

// Column sums of the gradients are taken over this many rows at a time, and then over the chunks.
constexpr int64_t kChunkRows = 16;

// A task is one row of x (batch, length, width). gate, shift and scale (batch, width) have rows at their strides.
struct NormArgs {
  const void* x;
  const void* gate;  // null: no residual, and then no y and no sum
  const void* y;
  const void* shift;
  const void* scale;
  void* sum;
  void* out;
  int64_t length, width;
  int64_t gate_stride, shift_stride, scale_stride;
  double eps;
  Dtype dtype;
};

// A task is one chunk of rows of one record. The partial sums (batch, chunks, width) are in the compute type.
struct NormGradArgs {
  const void* grad_sum;   // null: no residual, and then no gate, y, grad_y, partial_gate
  const void* grad_norm;
  const void* sum;        // what was normed
  const void* gate;
  const void* y;
  const void* scale;
  void* grad_x;
  void* grad_y;
  void* partial_gate;
  void* partial_shift;
  void* partial_scale;
  int64_t length, width, chunks;
  int64_t gate_stride, scale_stride;
  double eps;
  Dtype dtype;
};

template <typename C>
ECGTWIN_INLINE C modulated(C x, C mean, C rstd, C shift, C scale) {
  return (x - mean) * rstd * (C(1) + scale) + shift;
}

ECGTWIN_DECLARE_KERNEL(modulated_norm, NormArgs)
ECGTWIN_DECLARE_KERNEL(modulated_norm_backward, NormGradArgs)

}  // namespace ecgtwin
