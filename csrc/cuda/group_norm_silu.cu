// CUDA kernels of group_norm_silu: a block for each group of each record, a warp for each of its channels.
#include "group_norm_silu.h"

#include <math.h>

#include "launch.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;

template <typename C>
struct Shared {
  Two<C> sums[kWarps];
};

template <typename C>
struct Activation {
  C y, sigmoid;
};

template <typename C>
__device__ __forceinline__ Activation<C> activation(C normed, C weight, C bias) {
  const C y = normed * weight + bias;
  return {y, C(1) / (C(1) + exp(-y))};
}

// A group of a record, and which of its elements a thread takes: neighbouring threads take neighbours in memory.
struct Group {
  int64_t first, width;                     // of its channels, in the record
  int64_t start;                            // its first element
  int64_t channel_stride, position_stride;
  int64_t channel, channels_at_once, position, positions_at_once;

  __device__ __forceinline__ Group(const GroupNormArgs& a, int64_t task) : width(a.channels / a.groups) {
    const int64_t record = task / a.groups, thread = threadIdx.x;
    first = task % a.groups * width;
    channel_stride = a.channels_last ? 1 : a.length;
    position_stride = a.channels_last ? a.channels : 1;
    start = record * a.channels * a.length + first * channel_stride;
    channels_at_once = !a.channels_last ? kWarps : width < kThreads ? width : kThreads;
    positions_at_once = kThreads / channels_at_once;
    channel = a.channels_last ? thread % channels_at_once : thread / kWarp;
    position = a.channels_last ? thread / channels_at_once : thread % kWarp;
    // Threads over that make up no position have nothing to do.
    if (position >= positions_at_once) channel = width;
  }

  // Calls each(element, channel in the record) for the thread's elements.
  template <typename Each>
  __device__ __forceinline__ void walk(int64_t length, const Each& each) const {
    for (int64_t c = channel; c < width; c += channels_at_once)
      for (int64_t l = position; l < length; l += positions_at_once)
        each(start + c * channel_stride + l * position_stride, first + c);
  }

  // Sum of value(element) over the group, for every thread.
  template <typename C, typename Value>
  __device__ __forceinline__ C sum(const GroupNormArgs& a, const Value& value) const {
    C total = 0;
    if (a.channels_last)
      walk(a.length, [&](int64_t i, int64_t) { total += value(i); });
    else
      for (int64_t i = threadIdx.x; i < width * a.length; i += kThreads) total += value(start + i);
    return block_sum<kWarps>(Two<C>{total, C(0)}, shared_memory<Shared<C>>().sums).first;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) forward(GroupNormArgs a, int64_t tasks) {
  using C = Compute<T>;
  const T *x = static_cast<const T*>(a.x), *weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Group group(a, task);
    const C count = C(group.width * a.length);
    const C mean = group.sum<C>(a, [=](int64_t i) -> C { return load(x[i]); }) / count;
    const C squares = group.sum<C>(a, [=](int64_t i) -> C {
      const C centred = load(x[i]) - mean;
      return centred * centred;
    });
    const C rstd = C(1) / sqrt(squares / count + C(a.eps));
    if (threadIdx.x == 0) {
      static_cast<C*>(a.statistics)[2 * task] = mean;
      static_cast<C*>(a.statistics)[2 * task + 1] = rstd;
    }
    group.walk(a.length, [&](int64_t i, int64_t c) {
      const Activation<C> value = activation<C>((load(x[i]) - mean) * rstd, load(weight[c]), load(bias[c]));
      store(static_cast<T*>(a.out) + i, value.y * value.sigmoid);
    });
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backward(GroupNormGradArgs g, int64_t tasks) {
  using C = Compute<T>;
  const GroupNormArgs& a = g.forward;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t width = a.channels / a.groups, first = task * width;  // of its channels, counted through all records
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const C mean = static_cast<const C*>(a.statistics)[2 * task];
    const C rstd = static_cast<const C*>(a.statistics)[2 * task + 1];
    // Calls each(element, gradient of y, normed element, weight) for this lane's elements of channel `row`.
    const auto walk = [&](int64_t row, const auto& each) {
      const C weight = load(static_cast<const T*>(a.weight)[row % a.channels]);
      const C bias = load(static_cast<const T*>(a.bias)[row % a.channels]);
      for (int64_t i = row * a.length + lane; i < (row + 1) * a.length; i += kWarp) {
        const C normed = (load(static_cast<const T*>(a.x)[i]) - mean) * rstd;
        const Activation<C> value = activation<C>(normed, weight, bias);
        each(i, silu_gradient<C>(load(static_cast<const T*>(g.grad)[i]), value.y, value.sigmoid), normed, weight);
      }
    };

    // Sums over a channel give the gradients of weight and bias, and weighted, the group's two means.
    Two<C> total{C(0), C(0)};
    for (int64_t c = warp; c < width; c += kWarps) {
      const int64_t row = first + c;
      Two<C> sums{C(0), C(0)};
      walk(row, [&](int64_t, C slope, C normed, C weight) {
        sums.first += slope;
        sums.second += slope * normed;
        total.first += slope * weight;
        total.second += slope * normed * weight;
      });
      sums = warp_sum(sums);
      if (lane == 0) {
        static_cast<C*>(g.partial_bias)[row] = sums.first;
        static_cast<C*>(g.partial_weight)[row] = sums.second;
      }
    }
    total = block_sum<kWarps>(total, shared_memory<Shared<C>>().sums);
    const C count = C(width * a.length);
    const C mean_g = total.first / count, mean_g_normed = total.second / count;
    for (int64_t c = warp; c < width; c += kWarps)
      walk(first + c, [&](int64_t i, C slope, C normed, C weight) {
        store(static_cast<T*>(g.grad_x) + i, norm_gradient<C>(slope * weight, normed, mean_g, mean_g_normed, rstd));
      });
  }
}

}  // namespace

int group_norm_silu(const GroupNormArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch(forward<T>, grid(tasks), kThreads, sizeof(Shared<Compute<T>>),
                                   static_cast<cudaStream_t>(stream), a, tasks));
  return cudaGetLastError();
}

int group_norm_silu_backward(const GroupNormGradArgs& g, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(g.forward.dtype, launch(backward<T>, grid(tasks), kThreads, sizeof(Shared<Compute<T>>),
                                           static_cast<cudaStream_t>(stream), g, tasks));
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
