// CUDA kernels of the rotary embedding. Neighbouring threads own neighbouring pairs of outputs.
#include "rope_embed.h"

#include "launch.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) forward(RopeArgs a, int64_t rows) {
  using C = Compute<T>;
  const int64_t half = a.width / 2;
  const C* weight = static_cast<const C*>(a.weight);
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t record = row / a.length, position = row % a.length;
    const T* x = static_cast<const T*>(a.x) + record * a.channels * a.length + position;
    T* out = static_cast<T*>(a.out) + row * a.width;
    for (int64_t i = threadIdx.x; i < half; i += kThreads) {
      C first = static_cast<const C*>(a.bias)[i], second = static_cast<const C*>(a.bias)[half + i];
      for (int64_t c = 0; c < a.channels; ++c) {
        const C value = load(x[c * a.length]);
        first += weight[c * a.width + i] * value;
        second += weight[c * a.width + half + i] * value;
      }
      const int64_t angle = position * half + i;
      const Pair<C> turned = rotated<C>(first, second, static_cast<const C*>(a.cosine)[angle],
                                        static_cast<const C*>(a.sine)[angle]);
      store(out + i, turned.first);
      store(out + half + i, turned.second);
    }
  }
}

// The gradient of the embedding before it was turned.
template <typename T, typename C = Compute<T>>
__device__ __forceinline__ Pair<C> unturned(const RopeGradArgs& a, int64_t record, int64_t position, int64_t i) {
  const int64_t half = a.width / 2, angle = position * half + i;
  const T* grad = static_cast<const T*>(a.grad) + (record * a.length + position) * a.width;
  return rotated<C>(load(grad[i]), load(grad[half + i]), static_cast<const C*>(a.cosine)[angle],
                    -static_cast<const C*>(a.sine)[angle]);
}

// A warp for each position of each record.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_x(RopeGradArgs a, int64_t rows) {
  using C = Compute<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t half = a.width / 2, step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  const C* weight = static_cast<const C*>(a.weight);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; row < rows;
       row += step) {
    const int64_t record = row / a.length, position = row % a.length;
    for (int64_t c = 0; c < a.channels; ++c) {
      C total = 0;
      for (int64_t i = lane; i < half; i += kWarp) {
        const Pair<C> g = unturned<T>(a, record, position, i);
        total += weight[c * a.width + i] * g.first + weight[c * a.width + half + i] * g.second;
      }
      total = warp_sum(total);
      if (lane == 0) static_cast<C*>(a.grad_x)[(record * a.channels + c) * a.length + position] = total;
    }
  }
}

// A block for each chunk of positions; row `channels` of the result is the bias, whose input is 1.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_weight(RopeGradArgs a, int64_t tasks) {
  using C = Compute<T>;
  const int64_t half = a.width / 2;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t record = task / a.chunks, begin = task % a.chunks * kChunkPositions;
    const int64_t end = begin + kChunkPositions < a.length ? begin + kChunkPositions : a.length;
    const T* x = static_cast<const T*>(a.x) + record * a.channels * a.length;
    C* partial = static_cast<C*>(a.partial) + task * (a.channels + 1) * a.width;
    for (int64_t c = 0; c <= a.channels; ++c) {
      for (int64_t i = threadIdx.x; i < half; i += kThreads) {
        Pair<C> total{C(0), C(0)};
        for (int64_t position = begin; position < end; ++position) {
          const C value = c < a.channels ? C(load(x[c * a.length + position])) : C(1);
          const Pair<C> g = unturned<T>(a, record, position, i);
          total.first += value * g.first;
          total.second += value * g.second;
        }
        partial[c * a.width + i] = total.first;
        partial[c * a.width + half + i] = total.second;
      }
    }
  }
}

template <typename T>
void launch_backward(const RopeGradArgs& a, int64_t tasks, cudaStream_t stream) {
  const int64_t rows = tasks / a.chunks * a.length;
  const int rows_per_block = kThreads / kWarp;
  launch(backward_x<T>, grid((rows + rows_per_block - 1) / rows_per_block), kThreads, 0, stream, a, rows);
  launch(backward_weight<T>, grid(tasks), kThreads, 0, stream, a, tasks);
}

}  // namespace

int rope_embed(const RopeArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch(forward<T>, grid(tasks), kThreads, 0, static_cast<cudaStream_t>(stream), a, tasks));
  return cudaGetLastError();
}

int rope_embed_backward(const RopeGradArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch_backward<T>(a, tasks, static_cast<cudaStream_t>(stream)));
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
