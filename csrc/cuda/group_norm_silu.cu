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

// A group of a record: where it lies, and what of it a warp walks over.
template <typename T>
struct Group {
  int64_t first, length, channels;  // first: of its channels, counted through all records
  int lane, warp;

  __device__ __forceinline__ Group(const GroupNormArgs& a, int64_t task)
      : first(task * (a.channels / a.groups)), length(a.length), channels(a.channels / a.groups),
        lane(static_cast<int>(threadIdx.x) % kWarp), warp(static_cast<int>(threadIdx.x) / kWarp) {}

  // Sum of value(element) over the block's share, for every thread.
  template <typename C, typename Value>
  __device__ __forceinline__ C sum(const Value& value) const {
    C total = 0;
    for (int64_t i = threadIdx.x; i < channels * length; i += kThreads) total += value(first * length + i);
    return block_sum<kWarps>(Two<C>{total, C(0)}, shared_memory<Shared<C>>().sums).first;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) forward(GroupNormArgs a, int64_t tasks) {
  using C = Compute<T>;
  const T* x = static_cast<const T*>(a.x);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Group<T> group(a, task);
    const C count = C(group.channels * group.length);
    const C mean = group.template sum<C>([=](int64_t i) -> C { return load(x[i]); }) / count;
    const C squares = group.template sum<C>([=](int64_t i) -> C {
      const C centred = load(x[i]) - mean;
      return centred * centred;
    });
    const C rstd = C(1) / sqrt(squares / count + C(a.eps));
    if (threadIdx.x == 0) {
      static_cast<C*>(a.statistics)[2 * task] = mean;
      static_cast<C*>(a.statistics)[2 * task + 1] = rstd;
    }
    for (int64_t c = group.warp; c < group.channels; c += kWarps) {
      const int64_t row = group.first + c, channel = row % a.channels;
      const C weight = load(static_cast<const T*>(a.weight)[channel]);
      const C bias = load(static_cast<const T*>(a.bias)[channel]);
      for (int64_t i = row * a.length + group.lane; i < (row + 1) * a.length; i += kWarp) {
        const Activation<C> value = activation<C>((load(x[i]) - mean) * rstd, weight, bias);
        store(static_cast<T*>(a.out) + i, value.y * value.sigmoid);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) backward(GroupNormGradArgs g, int64_t tasks) {
  using C = Compute<T>;
  const GroupNormArgs& a = g.forward;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const Group<T> group(a, task);
    const C mean = static_cast<const C*>(a.statistics)[2 * task];
    const C rstd = static_cast<const C*>(a.statistics)[2 * task + 1];
    // Calls each(element, gradient of y, normed element, weight) for this lane's elements of channel `row`.
    const auto walk = [&](int64_t row, const auto& each) {
      const C weight = load(static_cast<const T*>(a.weight)[row % a.channels]);
      const C bias = load(static_cast<const T*>(a.bias)[row % a.channels]);
      for (int64_t i = row * a.length + group.lane; i < (row + 1) * a.length; i += kWarp) {
        const C normed = (load(static_cast<const T*>(a.x)[i]) - mean) * rstd;
        const Activation<C> value = activation<C>(normed, weight, bias);
        each(i, silu_gradient<C>(load(static_cast<const T*>(g.grad)[i]), value.y, value.sigmoid), normed, weight);
      }
    };

    // Sums over a channel give the gradients of weight and bias, and weighted, the group's two means.
    Two<C> total{C(0), C(0)};
    for (int64_t c = group.warp; c < group.channels; c += kWarps) {
      const int64_t row = group.first + c;
      Two<C> sums{C(0), C(0)};
      walk(row, [&](int64_t, C slope, C normed, C weight) {
        sums.first += slope;
        sums.second += slope * normed;
        total.first += slope * weight;
        total.second += slope * normed * weight;
      });
      sums = warp_sum(sums);
      if (group.lane == 0) {
        static_cast<C*>(g.partial_bias)[row] = sums.first;
        static_cast<C*>(g.partial_weight)[row] = sums.second;
      }
    }
    total = block_sum<kWarps>(total, shared_memory<Shared<C>>().sums);
    const C count = C(group.channels * group.length);
    const C mean_g = total.first / count, mean_g_normed = total.second / count;
    for (int64_t c = group.warp; c < group.channels; c += kWarps)
      walk(group.first + c, [&](int64_t i, C slope, C normed, C weight) {
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
