// out (G, M, N), float32, = x (G, M, K) times weight (G, N, K) transposed, plus bias (G, N). A row of it depends on its
// row of x alone, whatever M.
#pragma once

#include "common.h"
#include "kernel.h"

namespace ecgtwin {

struct LinearArgs {
  const void* x;
  const void* weight;  // of x's type
  const float* bias;   // or null
  float* out;
  int64_t rows, columns, inner;
  // From group to group; 0 where all have the same.
  int64_t x_stride, weight_stride, bias_stride;
  Dtype dtype;  // float32 or bfloat16
};

// A task is a group.
ECGTWIN_DECLARE_KERNEL(linear, LinearArgs)

}  // namespace ecgtwin
