// The MLP of a block, a strip of hidden units at a time.
#pragma once

#include "room.cuh"
#include "tanh_gelu.h"

namespace ecgtwin::cuda {

// GELU in its tanh form; powers of two are the quickest.
__device__ __forceinline__ float quick_gelu(float x) {
  constexpr float linear = static_cast<float>(kGeluLinear * 1.4426950408889634), cubic = static_cast<float>(kGeluCubic);
  return x * reciprocal(1.0f + power_of_two(-linear * (x + cubic * x * x * x)));
}

// x += gate * mlp(norm(x) (1 + scale) + shift)
template <class S>
__device__ __forceinline__ void mlp(Room<S>& room, const Modulation<S>& modulation, const Biases<S>& biases,
                                    int units, Sum<float, S::width>& x) {
  constexpr int strip = S::strip;
  normalise<S, true>(x, modulation.shift(), modulation.scale(), room.normed(room.own_row()));
#pragma unroll 1
  for (int first = 0; first < units; first += strip) {
    Operand<strip> hidden;
    {
      Sum<float, strip> sum;
      product<S, strip>(room.normed(room.first_row()), room.stream, sum);
      add_bias<strip>(sum, biases.up() + first);
#pragma unroll
      for (int n = 0; n < strip / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[n][i] = quick_gelu(sum[n][i]);
      round_to<strip>(hidden, sum);
    }
    add_gated_product<S, strip>(hidden, room.stream, modulation.gate(), x);
  }
  add_bias<S::width>(x, modulation.bias());
}

}  // namespace ecgtwin::cuda
