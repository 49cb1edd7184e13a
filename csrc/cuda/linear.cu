// CUDA kernel of a linear layer, for what a trajectory is given: a block makes a tile of 64 x 64 of one group.
#include "linear.h"

#include "tile.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kEdge = 64, kThreads = kEdge / 16 * kWarp;

template <typename T>
struct LinearTiles {
  static constexpr int depth = 128 / static_cast<int>(sizeof(T));
  struct alignas(16) Tile {
    T at[kEdge * kStride<T, depth>];
  } left, right;
};

// `inner` columns from `first` on of the rows of a matrix.
template <typename T>
__device__ __forceinline__ Rows<T> columns_of(const void* matrix, int64_t group_start, int64_t first, int64_t rows,
                                              int64_t inner, int depth) {
  const int left = static_cast<int>(inner - first < depth ? inner - first : depth);
  return {static_cast<T*>(const_cast<void*>(matrix)) + group_start + first, inner, rows, left};
}

template <typename T>
__global__ void __launch_bounds__(kThreads) linear_tiles(LinearArgs a, int64_t row_tiles, int64_t column_tiles,
                                                         int64_t tasks) {
  constexpr int depth = LinearTiles<T>::depth;
  auto& tiles = shared_memory<LinearTiles<T>>();
  const int own = static_cast<int>(threadIdx.x) / kWarp * 16;
  const Place at = place_of_lane();
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t group = task / (row_tiles * column_tiles);
    const int64_t first_row = task / column_tiles % row_tiles * kEdge, first_column = task % column_tiles * kEdge;
    Sum<float, kEdge> sum = {};
    for (int64_t k = 0; k < a.inner; k += depth) {
      const Rows<T> x = columns_of<T>(a.x, group * a.x_stride, k, a.rows, a.inner, depth);
      const Rows<T> weight = columns_of<T>(a.weight, group * a.weight_stride, k, a.columns, a.inner, depth);
      __syncthreads();
      load_tile<kEdge, depth, kThreads>(x, first_row, tiles.left.at);
      load_tile<kEdge, depth, kThreads>(weight, first_column, tiles.right.at);
      __syncthreads();
      Products<T>::template rows_by_rows<depth, kEdge>(tiles.left.at + own * kStride<T, depth>, tiles.right.at, sum);
    }
#pragma unroll
    for (int n = 0; n < kEdge / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t row = first_row + own + at.row + i / 2 * 8, column = first_column + 8 * n + at.column + i % 2;
        if (row >= a.rows || column >= a.columns) continue;
        const float bias = a.bias ? a.bias[group * a.bias_stride + column] : 0.0f;
        a.out[(group * a.rows + row) * a.columns + column] = sum[n][i] + bias;
      }
  }
}

template <typename T>
void launch_linear(const LinearArgs& a, int64_t groups, cudaStream_t stream) {
  const int64_t row_tiles = (a.rows + kEdge - 1) / kEdge, column_tiles = (a.columns + kEdge - 1) / kEdge;
  const int64_t tasks = groups * row_tiles * column_tiles;
  launch(linear_tiles<T>, grid(tasks), kThreads, sizeof(LinearTiles<T>), stream, a, row_tiles, column_tiles, tasks);
}

}  // namespace

int linear(const LinearArgs& a, int64_t groups, void* stream) {
  if (a.dtype == Dtype::float32)
    launch_linear<float>(a, groups, static_cast<cudaStream_t>(stream));
  else if (a.dtype == Dtype::bfloat16)
    launch_linear<BFloat16>(a, groups, static_cast<cudaStream_t>(stream));
  else
    return cudaErrorInvalidValue;
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
