// Products by each warp for itself, at once: the way of every GPU since sm_80.
#pragma once

#include "stream.cuh"

namespace ecgtwin::cuda {

struct Warps {
  static constexpr bool compiled = true;
  template <class S>
  using Stream = WeightStream<S>;
  static constexpr int rows = 16;            // that a product has
  static constexpr int most_columns = 16;    // of a sum beside the residual stream
  static constexpr int keys = 32;            // whose scores exist at a time
  static constexpr int unrolled_stages = 1;  // of a product

  // The 16 x 16 elements at a place as a left or as a right factor.
  template <int deeper, int further>
  __device__ __forceinline__ static void load_left(uint32_t (&to)[4], Factor<deeper, further> from) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices<false>(to, from.data + lane % 8 * 8 + lane / 8 % 2 * further + lane / 16 * deeper);
  }
  template <int deeper, int further, bool transposed, int next_depth>
  __device__ __forceinline__ static void load_right(uint32_t (&to)[4],
                                                    Factor<deeper, further, transposed, next_depth> from) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices<transposed>(to, from.data + lane % 8 * 8 + lane / 8 % 2 * deeper + lane / 16 * further);
  }

  // Before the first product of a sum.
  template <int columns>
  __device__ __forceinline__ static void clear(float (*sum)[4]) {
#pragma unroll
    for (int n = 0; n < columns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[n][i] = 0.0f;
  }

  // sum += left times right, `depth` deep; `first` of a sum that was cleared.
  template <int depth, int columns, class Left, class Right>
  __device__ __forceinline__ static void multiply_add(float (*sum)[4], const Left& left, const Right& right, bool) {
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
      uint32_t own[4];
      take_left(own, left, k);
#pragma unroll
      for (int n = 0; n < columns / 16; ++n) {
        uint32_t other[4];
        load_right(other, right.at(16 * k, 16 * n));
        cuda::multiply_add(sum[2 * n], own, other[0], other[1]);
        cuda::multiply_add(sum[2 * n + 1], own, other[2], other[3]);
      }
    }
  }

  // x += left times right.
  template <int depth, int columns, class Left, class Right>
  __device__ __forceinline__ static void add_product(float (*x)[4], const Left& left, const Right& right) {
    multiply_add<depth, columns>(x, left, right, false);
  }

  // Until now sums were not to be used, nor factors changed.
  template <int columns>
  __device__ __forceinline__ static void finish(float (*)[4]) {}
  // The same for all products but the last.
  __device__ __forceinline__ static void finish_earlier() {}
  // What this thread has stored can be multiplied after the next barrier.
  __device__ __forceinline__ static void publish() {}
  // A barrier of those that multiply together.
  __device__ __forceinline__ static void meet() { __syncwarp(); }

 private:
  template <int deeper, int further>
  __device__ __forceinline__ static void take_left(uint32_t (&to)[4], Factor<deeper, further> left, int k) {
    load_left(to, left.at(16 * k, 0));
  }
  template <int tiles>
  __device__ __forceinline__ static void take_left(uint32_t (&to)[4], const uint32_t (&left)[tiles][4], int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = left[k][i];
  }
};

}  // namespace ecgtwin::cuda
