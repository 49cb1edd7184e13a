// Products by four warps together, which read a right factor once for 64 rows and run beside the warps: sm_90a.
#pragma once

#include "bulk_stream.cuh"
#include "warpgroup_matrix.cuh"

namespace ecgtwin::cuda {

struct Warpgroups {
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static constexpr bool compiled = false;
#else
  static constexpr bool compiled = true;
#endif
  template <class S>
  using Stream = BulkStream<S>;
  static constexpr int rows = 64;
  static constexpr int most_columns = 64;
  static constexpr int keys = 32;
  // All, at most: a loop would move the registers of a sum while products with it are under way.
  static constexpr int unrolled_stages = 8;

  // The members of Warps; each product is a group, and the first of a sum overwrites it.
  template <int columns>
  __device__ __forceinline__ static void clear(float (*)[4]) {}
  template <int depth, int columns, class Left, int deeper, int further, bool transposed, int next_depth>
  __device__ __forceinline__ static void multiply_add(
      float (*sum)[4], const Left& left, Factor<deeper, further, transposed, next_depth> right, bool first) {
    const auto lefts = described(left);
    const auto rights = described(right);
    fence_products();
#pragma unroll
    for (int k = 0; k < depth / 16; ++k)
      begin_product<columns, transposed>(sum, lefts.part(k), rights.part(k), !first || k > 0);
    commit_products();
  }

  // By a sum of its own: registers that instructions add to must lie together, and those of x would be moved for it.
  template <int depth, int columns, class Left, class Right>
  __device__ __forceinline__ static void add_product(float (*x)[4], const Left& left, const Right& right) {
    Sum<float, columns> sum;
    multiply_add<depth, columns>(sum, left, right, true);
    finish<columns>(sum);
#pragma unroll
    for (int n = 0; n < columns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) x[n][i] += sum[n][i];
  }

  template <int columns>
  __device__ __forceinline__ static void finish(float (*sum)[4]) {
    wait_products<0>();
    hold<columns>(sum);
  }
  __device__ __forceinline__ static void finish_earlier() { wait_products<1>(); }
  __device__ __forceinline__ static void publish() { fence_proxy(); }
  __device__ __forceinline__ static void meet() { meet_warpgroup(); }

 private:
  // Factors with parts of 16 deep: in shared memory, described once, or in registers.
  template <int next_depth>
  struct Described {
    uint64_t first;
    __device__ __forceinline__ uint64_t part(int k) const { return moved(first, k * next_depth); }
  };
  template <int tiles>
  struct InRegisters {
    const uint32_t (&parts)[tiles][4];
    __device__ __forceinline__ const uint32_t (&part(int k) const)[4] { return parts[k]; }
  };

  template <int deeper, int further, bool transposed, int next_depth>
  __device__ __forceinline__ static Described<next_depth> described(
      Factor<deeper, further, transposed, next_depth> factor) {
    constexpr int size = sizeof(BFloat16);
    return {describe(factor.data, deeper * size, further * size)};
  }
  template <int tiles>
  __device__ __forceinline__ static InRegisters<tiles> described(const uint32_t (&left)[tiles][4]) {
    return {left};
  }
};

}  // namespace ecgtwin::cuda
