// CUDA kernels of the modulated norm: a warp for each row forward, a block for each chunk of rows backward.
#include "modulated_norm.h"

#include "launch.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kRowsPerBlock = 4;
constexpr int kBackwardThreads = 256;

// Moments of a row that the lanes of one warp read together; all lanes get them.
template <typename C, typename Value>
__device__ __forceinline__ Moments<C> moments(int64_t width, double eps, int lane, Value value) {
  C total = 0;
  for (int64_t i = lane; i < width; i += kWarp) total += value(i);
  const C mean = warp_sum(total) / C(width);
  C squares = 0;
  for (int64_t i = lane; i < width; i += kWarp) {
    const C centred = value(i) - mean;
    squares += centred * centred;
  }
  return {mean, C(1) / sqrt(warp_sum(squares) / C(width) + C(eps))};
}

template <typename T, bool residual>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp) forward(NormArgs a, int64_t rows) {
  using C = Compute<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRowsPerBlock;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp; row < rows; row += step) {
    const int64_t record = row / a.length;
    const T* x = static_cast<const T*>(a.x) + row * a.width;
    const T* y = residual ? static_cast<const T*>(a.y) + row * a.width : nullptr;
    const T* gate = residual ? static_cast<const T*>(a.gate) + record * a.gate_stride : nullptr;
    const T* shift = static_cast<const T*>(a.shift) + record * a.shift_stride;
    const T* scale = static_cast<const T*>(a.scale) + record * a.scale_stride;
    T* sum = residual ? static_cast<T*>(a.sum) + row * a.width : nullptr;
    T* out = static_cast<T*>(a.out) + row * a.width;
    auto value = [=](int64_t i) -> C {
      if constexpr (residual) return load(x[i]) + load(gate[i]) * load(y[i]);
      else return load(x[i]);
    };
    const Moments<C> m = moments<C>(a.width, a.eps, lane, value);
    for (int64_t i = lane; i < a.width; i += kWarp) {
      const C element = value(i);
      if constexpr (residual) store(sum + i, element);
      store(out + i, modulated<C>(element, m.mean, m.rstd, load(shift[i]), load(scale[i])));
    }
  }
}

// What is known of a chunk's rows: their moments, and the means of their gradient and of it times the normed row.
template <typename C>
struct ChunkRows {
  Moments<C> moments[kChunkRows];
  Two<C> means[kChunkRows];
};

// Warps first find the moments and means of the chunk's rows; then each thread walks down its columns.
template <typename T, bool residual>
__global__ void __launch_bounds__(kBackwardThreads, 1) backward(NormGradArgs a, int64_t tasks) {
  using C = Compute<T>;
  auto& [row_moments, row_means] = shared_memory<ChunkRows<C>>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t record = task / a.chunks, first = task % a.chunks * kChunkRows;
    const int rows = static_cast<int>(a.length - first < kChunkRows ? a.length - first : kChunkRows);
    const int64_t offset = (record * a.length + first) * a.width;
    const T* sum = static_cast<const T*>(a.sum) + offset;
    const T* grad = static_cast<const T*>(a.grad_norm) + offset;
    const T* scale = static_cast<const T*>(a.scale) + record * a.scale_stride;

    for (int row = warp; row < rows; row += kBackwardThreads / kWarp) {
      const T* values = sum + row * a.width;
      const Moments<C> m = moments<C>(a.width, a.eps, lane, [=](int64_t i) -> C { return load(values[i]); });
      Two<C> total{C(0), C(0)};
      for (int64_t i = lane; i < a.width; i += kWarp) {
        const C g = load(grad[row * a.width + i]) * (C(1) + load(scale[i]));
        total.first += g;
        total.second += g * (load(values[i]) - m.mean) * m.rstd;
      }
      total = warp_sum(total);
      if (lane == 0) {
        row_moments[row] = m;
        row_means[row] = {total.first / C(a.width), total.second / C(a.width)};
      }
    }
    __syncthreads();

    for (int64_t i = threadIdx.x; i < a.width; i += kBackwardThreads) {
      const C column_scale = C(1) + load(scale[i]);
      const C column_gate = residual ? C(load((static_cast<const T*>(a.gate) + record * a.gate_stride)[i])) : C(0);
      C total_shift = 0, total_scale = 0, total_gate = 0;
      for (int row = 0; row < rows; ++row) {
        const int64_t at = row * a.width + i;
        const Moments<C> m = row_moments[row];
        const C incoming = load(grad[at]);
        const C normed = (load(sum[at]) - m.mean) * m.rstd;
        C result =
            norm_gradient<C>(incoming * column_scale, normed, row_means[row].first, row_means[row].second, m.rstd);
        total_shift += incoming;
        total_scale += incoming * normed;
        if constexpr (residual) {
          result += load(static_cast<const T*>(a.grad_sum)[offset + at]);
          total_gate += result * load(static_cast<const T*>(a.y)[offset + at]);
          store(static_cast<T*>(a.grad_y) + offset + at, result * column_gate);
        }
        store(static_cast<T*>(a.grad_x) + offset + at, result);
      }
      static_cast<C*>(a.partial_shift)[task * a.width + i] = total_shift;
      static_cast<C*>(a.partial_scale)[task * a.width + i] = total_scale;
      if constexpr (residual) static_cast<C*>(a.partial_gate)[task * a.width + i] = total_gate;
    }
    __syncthreads();
  }
}

template <typename T>
void launch_forward(const NormArgs& a, int64_t rows, cudaStream_t stream) {
  const unsigned blocks = grid((rows + kRowsPerBlock - 1) / kRowsPerBlock);
  const auto kernel = a.gate ? forward<T, true> : forward<T, false>;
  launch(kernel, blocks, kRowsPerBlock * kWarp, 0, stream, a, rows);
}

template <typename T>
void launch_backward(const NormGradArgs& a, int64_t tasks, cudaStream_t stream) {
  const auto kernel = a.gate ? backward<T, true> : backward<T, false>;
  launch(kernel, grid(tasks), kBackwardThreads, sizeof(ChunkRows<Compute<T>>), stream, a, tasks);
}

}  // namespace

int modulated_norm(const NormArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch_forward<T>(a, tasks, static_cast<cudaStream_t>(stream)));
  return cudaGetLastError();
}

int modulated_norm_backward(const NormGradArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch_backward<T>(a, tasks, static_cast<cudaStream_t>(stream)));
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
