// What the CUDA kernels share: reductions in a block and the size of a grid.
#pragma once

#include <cuda_runtime_api.h>

#include "common.h"

namespace ecgtwin::cuda {

constexpr int kWarp = 32;

template <typename C>
struct Two {
  C first, second;
};

template <typename C>
__device__ __forceinline__ Two<C> warp_sum(Two<C> value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value.first += __shfl_xor_sync(0xffffffffu, value.first, offset);
    value.second += __shfl_xor_sync(0xffffffffu, value.second, offset);
  }
  return value;
}

template <typename C>
__device__ __forceinline__ C warp_sum(C value) {
  return warp_sum(Two<C>{value, C(0)}).first;
}

// A grid of at most 2^31 - 1 blocks; kernels stride over tasks beyond it.
static inline unsigned grid(int64_t blocks) {
  return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

}  // namespace ecgtwin::cuda
