// CUDA kernels of multihead_attention's gradient: a block for each tile of queries, then a block for each tile of keys.
// Both compute the weights anew, so that nothing is added atomically and results are the same in every run.
#include "attention_tiles.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kMostBytes = 128;

// Tiles of queries and of their gradient, and of keys and values: the block's own and those that pass by.
template <typename S>
struct Shared {
  typename S::Tile query, grad, key, value;
  typename S::Room room;
  typename S::C bias[S::rows];
  typename S::C largest[S::rows], inverse[S::rows], mean[S::rows];  // of queries that pass by
};

// The mean over keys of the weights' gradients is the product of a row of the result with its gradient.
template <typename S>
__device__ __forceinline__ void find_means(const typename S::T* grad, const typename S::T* out,
                                           typename S::C (&mean)[2]) {
  using C = typename S::C;
  const Place at = place_of_lane();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = (at.row + 8 * half) * kStride<typename S::T, S::width>;
    C sum = 0;
    for (int n = at.column; n < S::width; n += 8)
      sum += load(grad[row + n]) * load(out[row + n]) + load(grad[row + n + 1]) * load(out[row + n + 1]);
    mean[half] = row_sum(sum);
  }
}

template <typename S>
__device__ __forceinline__ void to_queries(const AttentionGradArgs& g, int64_t task, int64_t first) {
  using T = typename S::T;
  using C = typename S::C;
  const AttentionArgs& a = g.forward;
  auto& shared = shared_memory<Shared<S>>();
  const Rows<T> key = S::head(a.key, a, task, a.keys), value = S::head(a.value, a, task, a.keys);
  const Place at = place_of_lane();
  const C scale = score_factor<C>(a), factor = C(1) / sqrt(C(a.head_size));
  S::load(S::head(a.query, a, task, a.queries), first, shared.query);
  S::load(S::head(g.grad, a, task, a.queries), first, shared.grad);
  S::load(S::head(a.out, a, task, a.queries), first, shared.key);
  __syncthreads();
  C mean[2], largest[2], inverse[2];
  find_means<S>(shared.grad.own_rows(), shared.key.own_rows(), mean);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + S::lane_row() + 8 * half;
    const bool present = row < a.queries;
    const C* statistics = statistics_of<C>(a, task);
    largest[half] = present ? statistics[row] : C(0);
    inverse[half] = present ? statistics[a.queries + row] : C(0);
    if (present && at.column == 0) static_cast<C*>(g.means)[task * a.queries + row] = mean[half];
  }
  __syncthreads();

  Sum<C, S::width> result = {};
  for (int64_t first_key = 0; first_key < a.keys; first_key += S::rows) {
    S::load(key, first_key, shared.key);
    S::load(value, first_key, shared.value);
    for (int i = static_cast<int>(threadIdx.x); i < S::rows; i += S::threads)
      shared.bias[i] = bias_of<C>(a, task, first_key + i);
    __syncthreads();
    Sum<C, S::rows> product = {}, grad = {};
    Products<T>::template rows_by_rows<S::width, S::rows>(shared.query.own_rows(), shared.key.at, product);
    Products<T>::template rows_by_rows<S::width, S::rows>(shared.grad.own_rows(), shared.value.at, grad);
#pragma unroll
    for (int n = 0; n < S::rows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const C bias = shared.bias[8 * n + at.column + i % 2];
        const C weight = exp2(fma(product[n][i], scale, bias - largest[i / 2])) * inverse[i / 2];
        grad[n][i] = weight * (grad[n][i] - mean[i / 2]) * factor;
      }
    Products<T>::template sum_by_matrix<S::rows, S::width>(grad, shared.key.at, shared.room.own(), result);
    __syncthreads();
  }
  S::store(result, shared.query, S::head(g.grad_query, a, task, a.queries), first);
}

// Rows are keys here, columns queries. A query beyond the last has no gradient, hence no part in the sums.
template <typename S>
__device__ __forceinline__ void to_keys(const AttentionGradArgs& g, int64_t task, int64_t first) {
  using T = typename S::T;
  using C = typename S::C;
  const AttentionArgs& a = g.forward;
  auto& shared = shared_memory<Shared<S>>();
  const Rows<T> query = S::head(a.query, a, task, a.queries), incoming = S::head(g.grad, a, task, a.queries);
  const C* statistics = statistics_of<C>(a, task);
  const C* means = static_cast<const C*>(g.means) + task * a.queries;
  const Place at = place_of_lane();
  const C scale = score_factor<C>(a), factor = C(1) / sqrt(C(a.head_size));
  S::load(S::head(a.key, a, task, a.keys), first, shared.key);
  S::load(S::head(a.value, a, task, a.keys), first, shared.value);
  const int64_t row = first + S::lane_row();
  const C bias[2] = {bias_of<C>(a, task, row), bias_of<C>(a, task, row + 8)};

  Sum<C, S::width> grad_key = {}, grad_value = {};
  for (int64_t first_query = 0; first_query < a.queries; first_query += S::rows) {
    S::load(query, first_query, shared.query);
    S::load(incoming, first_query, shared.grad);
    for (int i = static_cast<int>(threadIdx.x); i < S::rows; i += S::threads) {
      const int64_t from = first_query + i;
      const bool present = from < a.queries;
      shared.largest[i] = present ? statistics[from] : C(0);
      shared.inverse[i] = present ? statistics[a.queries + from] : C(0);
      shared.mean[i] = present ? means[from] : C(0);
    }
    __syncthreads();
    Sum<C, S::rows> weight = {}, grad = {};
    Products<T>::template rows_by_rows<S::width, S::rows>(shared.key.own_rows(), shared.query.at, weight);
#pragma unroll
    for (int n = 0; n < S::rows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int from = 8 * n + at.column + i % 2;
        weight[n][i] = exp2(fma(weight[n][i], scale, bias[i / 2] - shared.largest[from])) * shared.inverse[from];
      }
    Products<T>::template sum_by_matrix<S::rows, S::width>(weight, shared.grad.at, shared.room.own(), grad_value);
    Products<T>::template rows_by_rows<S::width, S::rows>(shared.value.own_rows(), shared.grad.at, grad);
#pragma unroll
    for (int n = 0; n < S::rows / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        grad[n][i] = weight[n][i] * (grad[n][i] - shared.mean[8 * n + at.column + i % 2]) * factor;
    Products<T>::template sum_by_matrix<S::rows, S::width>(grad, shared.query.at, shared.room.own(), grad_key);
    __syncthreads();
  }
  S::store(grad_key, shared.key, S::head(g.grad_key, a, task, a.keys), first);
  S::store(grad_value, shared.value, S::head(g.grad_value, a, task, a.keys), first);
}

template <typename S, bool queries>
__global__ void __launch_bounds__(S::threads, 1) backward(AttentionGradArgs g, int64_t tiles, int64_t blocks) {
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t task = block / tiles, first = block % tiles * S::rows;
    if constexpr (queries)
      to_queries<S>(g, task, first);
    else
      to_keys<S>(g, task, first);
    __syncthreads();
  }
}

template <typename S, bool queries>
void launch_backward(const AttentionGradArgs& g, int64_t tasks, cudaStream_t stream) {
  const int64_t length = queries ? g.forward.queries : g.forward.keys, tiles = (length + S::rows - 1) / S::rows;
  const int64_t blocks = tasks * tiles;
  launch(backward<S, queries>, grid(blocks), S::threads, sizeof(Shared<S>), stream, g, tiles, blocks);
}

// The keys' kernel reads the means that the queries' one has written.
template <typename S>
int launch_both(const AttentionGradArgs& g, int64_t tasks, cudaStream_t stream) {
  launch_backward<S, true>(g, tasks, stream);
  launch_backward<S, false>(g, tasks, stream);
  return cudaGetLastError();
}

}  // namespace

int multihead_attention_backward(const AttentionGradArgs& g, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(g.forward.dtype, return (with_tiling<T, kMostBytes>(g.forward.head_size, [&](auto tiling) {
    return launch_both<decltype(tiling)>(g, tasks, static_cast<cudaStream_t>(stream));
  })));
  return cudaErrorInvalidValue;
}

}  // namespace ecgtwin::cuda
