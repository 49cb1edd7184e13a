// A warp's 16 rows of the residual stream in its registers, their norm, and products with the weights.
#pragma once

#include "stream.cuh"

namespace ecgtwin::cuda {

#if defined(__CUDACC__)

__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float inverse_root(float x) { return rsqrtf(x); }

#else

inline float power_of_two(float x) { return exp2f(x); }
inline float reciprocal(float x) { return 1.0f / x; }
inline float inverse_root(float x) { return 1.0f / sqrtf(x); }

#endif

// Two neighbouring columns of float32.
struct alignas(8) Pair {
  float first, second;
};

// What a lane needs of a row of float32: the two columns that it has of each eight. One address serves all of them.
class OfColumns {
 public:
  __device__ __forceinline__ explicit OfColumns(const float* row) : own_(row + place_of_lane().column) {}
  __device__ __forceinline__ Pair operator[](int n) const { return *reinterpret_cast<const Pair*>(own_ + 8 * n); }

 private:
  const float* own_;
};

// A sum of 16 columns, rounded to bfloat16, is the left factor of another product as it lies.
template <int columns>
using Operand = uint32_t[columns / 16][4];

template <int columns>
__device__ __forceinline__ void round_to(Operand<columns>& operand, const Sum<float, columns>& sum) {
#pragma unroll
  for (int n = 0; n < columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) operand[n / 2][n % 2 * 2 + i] = packed(sum[n][2 * i], sum[n][2 * i + 1]);
}

// The same as 16 rows of a tile.
template <int columns>
__device__ __forceinline__ void round_to(BFloat16* rows, int stride, const float (*sum)[4]) {
  rows += place_of_lane().row * stride + place_of_lane().column;
#pragma unroll
  for (int n = 0; n < columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<uint32_t*>(rows + 8 * i * stride + 8 * n) = packed(sum[n][2 * i], sum[n][2 * i + 1]);
}

// The 16 x 16 elements of a panel that begin at `rows` and belong to the warp, as a left factor.
__device__ __forceinline__ void load_operand(uint32_t (&operand)[4], const BFloat16* rows, int stride) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  load_matrices<false>(operand, rows + lane % 16 * stride + lane / 16 * 8);
}

template <int columns>
__device__ __forceinline__ void add_bias(Sum<float, columns>& sum, const float* bias) {
  const OfColumns biases(bias);
#pragma unroll
  for (int n = 0; n < columns / 8; ++n) {
    const Pair add = biases[n];
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[n][i] += i % 2 ? add.second : add.first;
  }
}

// A norm of rows without weights, then times 1 + scale, plus shift where it is modulated, to the warp's rows of a panel.
template <class S, bool modulated>
__device__ __forceinline__ void normalise(const Sum<float, S::width>& x, const float* shift, const float* scale,
                                          BFloat16* rows) {
  constexpr float share = 1.0f / S::width, eps = 1e-6f;
  const OfColumns shifts(shift), scales(scale);
  float mean[2] = {0.0f, 0.0f}, inverse[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < S::width / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) mean[i / 2] += x[n][i];
#pragma unroll
  for (int i = 0; i < 2; ++i) mean[i] = row_sum(mean[i]) * share;
#pragma unroll
  for (int n = 0; n < S::width / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) inverse[i / 2] += (x[n][i] - mean[i / 2]) * (x[n][i] - mean[i / 2]);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    inverse[i] = inverse_root(row_sum(inverse[i]) * share + eps);
    // Not x - mean below, which the compiler would keep from above, in registers that are not there.
    mean[i] *= -inverse[i];
  }
  // Other lanes are done with what the rows held.
  __syncwarp();
  rows += place_of_lane().row * S::stride + place_of_lane().column;
#pragma unroll
  for (int n = 0; n < S::width / 8; ++n) {
    const Pair add = modulated ? shifts[n] : Pair{0.0f, 0.0f}, times = modulated ? scales[n] : Pair{0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float first = x[n][2 * i] * inverse[i] + mean[i], second = x[n][2 * i + 1] * inverse[i] + mean[i];
      *reinterpret_cast<uint32_t*>(rows + 8 * i * S::stride + 8 * n) =
          packed(first * (1.0f + times.first) + add.first, second * (1.0f + times.second) + add.second);
    }
  }
  __syncwarp();
}

// sum = the warp's rows of a panel times `columns` columns of the stream.
template <class S, int columns>
__device__ __forceinline__ void product(const BFloat16* rows, WeightStream<S>& stream, Sum<float, columns>& sum) {
  constexpr int tiles = columns / 16, depth = S::stage_tiles / tiles;
  static_assert(S::stage_tiles % tiles == 0 && S::width / 16 % depth == 0);
#pragma unroll
  for (int n = 0; n < columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[n][i] = 0.0f;
#pragma unroll 1
  for (int k = 0; k < S::width / 16; k += depth) {
    const Tile* stage = stream.next();
#pragma unroll
    for (int j = 0; j < depth; ++j) {
      uint32_t left[4];
      load_operand(left, rows + 16 * (k + j), S::stride);
#pragma unroll
      for (int n = 0; n < tiles; ++n) multiply_add(sum[2 * n], sum[2 * n + 1], left, stage[tiles * j + n]);
    }
  }
}

// x += operand times `depth` rows of the stream.
template <class S, int depth>
__device__ __forceinline__ void add_product(const Operand<depth>& operand, WeightStream<S>& stream,
                                            Sum<float, S::width>& x) {
  constexpr int tiles = depth / 16;
  static_assert(S::width / 16 * tiles % S::stage_tiles == 0);
  const Tile* stage = nullptr;
#pragma unroll
  for (int i = 0; i < S::width / 16 * tiles; ++i) {
    const int n = i / tiles, tile = i % S::stage_tiles;
    if (tile == 0) stage = stream.next();
    multiply_add(x[2 * n], x[2 * n + 1], operand[i % tiles], stage[tile]);
  }
}

// x += gate * (operand times `depth` rows of the stream)
template <class S, int depth>
__device__ __forceinline__ void add_gated_product(const Operand<depth>& operand, WeightStream<S>& stream,
                                                  const float* gate, Sum<float, S::width>& x) {
  constexpr int tiles = depth / 16;
  static_assert(S::width / 16 * tiles % S::stage_tiles == 0);
  const OfColumns gates(gate);
  const Tile* stage = nullptr;
#pragma unroll
  for (int n = 0; n < S::width / 16; ++n) {
    float sum[2][4] = {};
#pragma unroll
    for (int k = 0; k < tiles; ++k) {
      const int tile = (n * tiles + k) % S::stage_tiles;
      if (tile == 0) stage = stream.next();
      multiply_add(sum[0], sum[1], operand[k], stage[tile]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Pair times = gates[2 * n + i];
#pragma unroll
      for (int j = 0; j < 4; ++j) x[2 * n + i][j] += (j % 2 ? times.second : times.first) * sum[i][j];
    }
  }
}

}  // namespace ecgtwin::cuda
