// What the directions of attention share: tiles of one head of one record, scores, and how the work is cut into blocks.
#pragma once

#include <math.h>

#include <type_traits>

#include "multihead_attention.h"
#include "tile.cuh"

namespace ecgtwin::cuda {

// One block owns `rows` rows of one head and walks over the other sequence in tiles of as many. head_size is padded to
// `width`. Rows of more than `most_bytes` bytes take smaller tiles, so that what a block holds fits into shared memory
// and registers.
template <typename Element, int padded, int most_bytes>
struct Tiling {
  using T = Element;
  using C = Compute<T>;
  static constexpr int width = padded;
  static constexpr int rows = sizeof(T) == 8 ? 16 : sizeof(T) * width > most_bytes ? 32 : 64;
  static constexpr int warps = rows / 16;
  static constexpr int threads = warps * kWarp;

  __device__ __forceinline__ static int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  // The first of the rows that a lane holds; the other is eight below.
  __device__ __forceinline__ static int lane_row() { return 16 * warp() + place_of_lane().row; }

  struct alignas(16) Tile {
    T at[rows * kStride<T, width>];
    // What a warp multiplies or writes.
    __device__ __forceinline__ T* own_rows() { return at + warp() * 16 * kStride<T, width>; }
  };
  // Where a warp spreads a sum over `rows` columns for the product with it.
  struct alignas(16) Room {
    T at[warps * Products<T>::template room<rows> + 1];
    __device__ __forceinline__ T* own() { return at + warp() * Products<T>::template room<rows>; }
  };

  // The rows of one head.
  __device__ __forceinline__ static Rows<T> head(const HeadRows& from, const AttentionArgs& a, int64_t task,
                                                 int64_t count) {
    T* data = static_cast<T*>(from.data) + task / a.heads * from.batch_stride + task % a.heads * a.head_size;
    return {data, from.row_stride, count, static_cast<int>(a.head_size)};
  }
  __device__ __forceinline__ static void load(const Rows<T>& from, int64_t first, Tile& to) {
    load_tile<rows, width, threads>(from, first, to.at);
  }
  // The warps' sums go to the matrix by way of a tile that nobody reads any more.
  __device__ __forceinline__ static void store(const Sum<C, width>& sum, Tile& by, const Rows<T>& to, int64_t first) {
    __syncthreads();
    store_sum<width>(sum, by.own_rows(), kStride<T, width>);
    __syncthreads();
    store_tile<rows, width, threads>(by.at, to, first);
  }
};

// Scores are in units of log2(e), statistics too.
template <typename C>
__device__ __forceinline__ C score_factor(const AttentionArgs& a) {
  return C(1.4426950408889634) / sqrt(C(a.head_size));
}

// One head's statistics: the largest score of each query, then the reciprocals of the sums.
template <typename C>
__device__ __forceinline__ C* statistics_of(const AttentionArgs& a, int64_t task) {
  return static_cast<C*>(a.statistics) + task * 2 * a.queries;
}

// The bias of a key, which hides those beyond the last.
template <typename C>
__device__ __forceinline__ C bias_of(const AttentionArgs& a, int64_t task, int64_t key) {
  if (key >= a.keys) return C(kMasked);
  return key_bias<C>(a.bias ? a.bias + task / a.heads * a.keys : nullptr, key);
}

// Calls `launch` with the tiling of this head size; wider ones than `widest_head` are an error.
template <typename T, int most_bytes, typename Launch>
int with_tiling(int64_t head_size, const Launch& launch) {
  if (head_size <= 32) return launch(Tiling<T, 32, most_bytes>{});
  if (head_size <= 64) return launch(Tiling<T, 64, most_bytes>{});
  if constexpr (!std::is_same_v<T, double>)
    if (head_size <= 128) return launch(Tiling<T, 128, most_bytes>{});
  return cudaErrorInvalidValue;
}

}  // namespace ecgtwin::cuda
