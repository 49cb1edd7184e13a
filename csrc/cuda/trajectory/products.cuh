// A warp's 16 rows of the residual stream in its registers, their norm, and products with the weights.
#pragma once

#include "sizes.cuh"
#include "warpgroups.cuh"
#include "warps.cuh"

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

// The same as a warp's rows of a panel.
template <int columns, int of_panel>
__device__ __forceinline__ void round_to(Panel<of_panel> rows, const float (*sum)[4]) {
  const PlaceInPanel<of_panel> place(rows);
#pragma unroll
  for (int n = 0; n < columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) place.store(n, i, packed(sum[n][2 * i], sum[n][2 * i + 1]));
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

// A norm of rows without weights, then times 1 + scale, plus shift where it is modulated, to the warp's rows of a
// panel.
template <class S, bool modulated>
__device__ __forceinline__ void normalise(const Sum<float, S::width>& x, const float* shift, const float* scale,
                                          Panel<S::width> rows) {
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
  // Others are done with what the rows held.
  S::Multiplier::meet();
  const PlaceInPanel<S::width> place(rows);
#pragma unroll
  for (int n = 0; n < S::width / 8; ++n) {
    const Pair add = modulated ? shifts[n] : Pair{0.0f, 0.0f}, times = modulated ? scales[n] : Pair{0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float first = x[n][2 * i] * inverse[i] + mean[i], second = x[n][2 * i + 1] * inverse[i] + mean[i];
      place.store(n, i, packed(first * (1.0f + times.first) + add.first, second * (1.0f + times.second) + add.second));
    }
  }
  S::Multiplier::publish();
  S::Multiplier::meet();
}

template <class S>
using Stream = typename S::Multiplier::template Stream<S>;

// sum = rows of a panel times `columns` columns of the stream.
template <class S, int columns>
__device__ __forceinline__ void product(Panel<S::width> rows, Stream<S>& stream, Sum<float, columns>& sum) {
  constexpr int depth = 256 * S::stage_tiles / columns;  // of a stage
  static_assert(256 * S::stage_tiles % columns == 0 && depth % 16 == 0 && S::width % depth == 0);
  S::Multiplier::template clear<columns>(sum);
#pragma unroll S::Multiplier::unrolled_stages
  for (int k = 0; k < S::width; k += depth) {
    const WeightFactor<columns> weights{stream.next()};
    S::Multiplier::template multiply_add<depth, columns>(sum, rows.from_column(k).by_rows(), weights, k == 0);
  }
  S::Multiplier::template finish<columns>(sum);
}

// Calls `use` with the number of each of some columns of an output matrix, and with `depth` rows of them.
template <class S, int depth, typename Use>
__device__ __forceinline__ void for_output_columns(Stream<S>& stream, Use use) {
  constexpr int in_stage = S::strip / depth;  // as many columns as there are
  static_assert(S::strip % depth == 0 && S::width / S::chunk % in_stage == 0);
  const BFloat16* stage = nullptr;
#pragma unroll
  for (int n = 0; n < S::width / S::chunk; ++n) {
    if (n % in_stage == 0) stage = stream.next();
    use(S::chunk * n, WeightFactor<S::chunk>{stage + n % in_stage * depth * S::chunk});
  }
}

// x += operand times `depth` rows of the stream.
template <class S, int depth>
__device__ __forceinline__ void add_product(const Operand<depth>& operand, Stream<S>& stream,
                                            Sum<float, S::width>& x) {
  for_output_columns<S, depth>(stream, [&](int column, WeightFactor<S::chunk> weights) {
    S::Multiplier::template add_product<depth, S::chunk>(x + column / 8, operand, weights);
  });
}

// x += gate * (operand times `depth` rows of the stream)
template <class S, int depth>
__device__ __forceinline__ void add_gated_product(const Operand<depth>& operand, Stream<S>& stream,
                                                  const float* gate, Sum<float, S::width>& x) {
  constexpr int columns = S::chunk < S::Multiplier::most_columns ? S::chunk : S::Multiplier::most_columns;
  const OfColumns gates(gate);
  for_output_columns<S, depth>(stream, [&](int column, WeightFactor<S::chunk> weights) {
#pragma unroll
    for (int first = 0; first < S::chunk; first += columns) {
      Sum<float, columns> sum;
      S::Multiplier::template clear<columns>(sum);
      S::Multiplier::template multiply_add<depth, columns>(sum, operand, weights.at(0, first), true);
      S::Multiplier::template finish<columns>(sum);
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
        const int eight = (column + first) / 8 + n;
        const Pair times = gates[eight];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[eight][i] += (i % 2 ? times.second : times.first) * sum[n][i];
      }
    }
  });
}

}  // namespace ecgtwin::cuda
