// CUDA kernel of multihead_attention: softmax over tiles of keys as they come (FlashAttention-2, Dao 2023).
#include "attention_tiles.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kMostBytes = 256;

template <typename S>
struct Shared {
  typename S::Tile query, key, value;
  typename S::Room room;
  typename S::C bias[S::rows];
};

// Takes a tile of products of queries and keys into the running softmax of its rows. Products become weights relative
// to the largest score so far, and `factor` what earlier weights and sums are to be multiplied by. `sum` is of this
// lane's columns alone, `bias` of its first one. A score is never rounded on its own: what is exponentiated is.
template <int columns, typename C>
__device__ __forceinline__ void soften(Sum<C, columns>& product, C scale, const C* bias, C (&largest)[2], C (&sum)[2],
                                       C (&factor)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    C top = largest[half];
#pragma unroll
    for (int n = 0; n < columns / 8; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        const C score = fma(product[n][i], scale, bias[8 * n + i % 2]);
        top = score > top ? score : top;
      }
    top = row_maximum(top);
    factor[half] = exp2(largest[half] - top);
    largest[half] = top;
    C tile_sum = 0;  // of its own: a thousand weights added to one sum would round a thousand times
#pragma unroll
    for (int n = 0; n < columns / 8; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i)
        tile_sum += product[n][i] = exp2(fma(product[n][i], scale, bias[8 * n + i % 2] - top));
    sum[half] = fma(sum[half], factor[half], tile_sum);
  }
}

template <typename S>
__device__ __forceinline__ void attend(const AttentionArgs& a, int64_t task, int64_t first) {
  using T = typename S::T;
  using C = typename S::C;
  auto& shared = shared_memory<Shared<S>>();
  const Rows<T> key = S::head(a.key, a, task, a.keys), value = S::head(a.value, a, task, a.keys);
  const Place at = place_of_lane();
  const C scale = score_factor<C>(a);
  Sum<C, S::width> out = {};
  C largest[2] = {C(-3e38), C(-3e38)}, sum[2] = {C(0), C(0)};
  S::load(S::head(a.query, a, task, a.queries), first, shared.query);
  for (int64_t first_key = 0; first_key < a.keys; first_key += S::rows) {
    S::load(key, first_key, shared.key);
    S::load(value, first_key, shared.value);
    for (int i = static_cast<int>(threadIdx.x); i < S::rows; i += S::threads)
      shared.bias[i] = bias_of<C>(a, task, first_key + i);
    __syncthreads();

    Sum<C, S::rows> weight = {};
    Products<T>::template rows_by_rows<S::width, S::rows>(shared.query.own_rows(), shared.key.at, weight);
    C factor[2];
    soften<S::rows>(weight, scale, shared.bias + at.column, largest, sum, factor);
#pragma unroll
    for (int n = 0; n < S::width / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) out[n][i] *= factor[i / 2];
    Products<T>::template sum_by_matrix<S::rows, S::width>(weight, shared.value.at, shared.room.own(), out);
    __syncthreads();
  }

  C* statistics = statistics_of<C>(a, task);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const C inverse = C(1) / row_sum(sum[half]);
#pragma unroll
    for (int n = 0; n < S::width / 8; ++n)
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) out[n][i] *= inverse;
    const int64_t row = first + S::lane_row() + 8 * half;
    if (at.column == 0 && row < a.queries) {
      statistics[row] = largest[half];
      statistics[a.queries + row] = inverse;
    }
  }
  S::store(out, shared.query, S::head(a.out, a, task, a.queries), first);
}

template <typename S>
__global__ void __launch_bounds__(S::threads, 1) forward(AttentionArgs a, int64_t tiles, int64_t blocks) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    attend<S>(a, block / tiles, block % tiles * S::rows);
    __syncthreads();
  }
}

template <typename S>
int launch_forward(const AttentionArgs& a, int64_t tasks, cudaStream_t stream) {
  const int64_t tiles = (a.queries + S::rows - 1) / S::rows, blocks = tasks * tiles;
  launch(forward<S>, grid(blocks), S::threads, sizeof(Shared<S>), stream, a, tiles, blocks);
  return cudaGetLastError();
}

}  // namespace

int multihead_attention(const AttentionArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, return (with_tiling<T, kMostBytes>(a.head_size, [&](auto tiling) {
    return launch_forward<decltype(tiling)>(a, tasks, static_cast<cudaStream_t>(stream));
  })));
  return cudaErrorInvalidValue;
}

}  // namespace ecgtwin::cuda
