// GroupNorm with affine, then SiLU:   y = (x - mean) * rstd * weight + bias        out = y sigmoid(y)
// Arithmetic for CPU and CUDA, and the arguments of the kernels. A task is one group of one record.
#pragma once

#include "common.h"
#include "kernel.h"
#include "norm.h"

namespace ecgtwin {

struct GroupNormArgs {
  const void* x;       // (batch, channels, length); with channels_last (batch, length, channels): on CUDA
  const void* weight;  // (channels)
  const void* bias;    // (channels)
  void* out;           // as x
  void* statistics;    // (batch, groups, 2), compute type: mean, then 1 / deviation
  int64_t channels, length, groups, channels_last;
  double eps;
  Dtype dtype;
};

struct GroupNormGradArgs {
  GroupNormArgs forward;  // out is not read; channels_last is 0
  const void* grad;       // (batch, channels, length)
  void* grad_x;
  void* partial_weight;   // (batch, channels), compute type: sums over the length
  void* partial_bias;
};

// Gradient of y, given that of y sigmoid(y).
template <typename C>
ECGTWIN_INLINE C silu_gradient(C grad, C y, C sigmoid) {
  return grad * sigmoid * (C(1) + y * (C(1) - sigmoid));
}

ECGTWIN_DECLARE_KERNEL(group_norm_silu, GroupNormArgs)
ECGTWIN_DECLARE_KERNEL(group_norm_silu_backward, GroupNormGradArgs)

}  // namespace ecgtwin
