// A linear per position, then the rotary position encoding of the embedding itself:
//   e = W x + b        out[i] = e[i] cos - e[i + h] sin,  out[i + h] = e[i + h] cos + e[i] sin,   h = width / 2
// Arithmetic for CPU and CUDA, and the arguments of the kernels. Weight, bias and tables are in the compute type.
#pragma once

#include "common.h"
#include "kernel.h"

namespace ecgtwin {

// Sums over positions are taken over this many at a time, and then over the chunks.
constexpr int64_t kChunkPositions = 32;

// A task is one position of one record.
struct RopeArgs {
  const void* x;       // (batch, channels, length)
  const void* weight;  // (channels, width): transposed, so that neighbouring outputs lie side by side
  const void* bias;    // (width)
  const void* cosine;  // (length, width / 2)
  const void* sine;
  void* out;           // (batch, length, width)
  int64_t channels, length, width;
  Dtype dtype;
};

// A task is one chunk of positions of one record.
struct RopeGradArgs {
  const void* grad;    // (batch, length, width)
  const void* x;
  const void* weight;
  const void* cosine;
  const void* sine;
  void* grad_x;        // (batch, channels, length), compute type
  void* partial;       // (batch, chunks, channels + 1, width), compute type: rows of the weight, then the bias
  int64_t channels, length, width, chunks;
  Dtype dtype;
};

template <typename C>
struct Pair {
  C first, second;
};

template <typename C>
ECGTWIN_INLINE Pair<C> rotated(C first, C second, C cosine, C sine) {
  return {first * cosine - second * sine, second * cosine + first * sine};
}

ECGTWIN_DECLARE_KERNEL(rope_embed, RopeArgs)
ECGTWIN_DECLARE_KERNEL(rope_embed_backward, RopeGradArgs)

}  // namespace ecgtwin
