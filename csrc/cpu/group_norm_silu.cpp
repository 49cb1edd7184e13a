// CPU kernels of group_norm_silu: strips of a channel, widened to the compute type, stay in the first-level cache.
#include "group_norm_silu.h"

#include "cpu/moments.h"
#include "cpu/vector.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

constexpr int64_t kStrip = 256;  // a multiple of the lanes

// A whole strip, so that an element's result does not depend on its place.
template <typename C>
inline void sigmoids(const C* y, C* out) {
  for (int64_t i = 0; i < kStrip; ++i) out[i] = C(1) / (C(1) + exp(-y[i]));
}

#if defined(__AVX2__)
template <>
inline void sigmoids<float>(const float* y, float* out) {
  for (int64_t i = 0; i < kStrip; i += kLanes)
    store_aligned(out + i, broadcast(1.0f) / (broadcast(1.0f) + exp2<true>(load_aligned(y + i) * broadcast(-kLog2E))));
}
#endif

// One strip of one channel: y, and its sigmoid.
template <typename T, typename C = Compute<T>>
struct Strip {
  alignas(64) C y[kStrip] = {};
  alignas(64) C sigmoid[kStrip];

  void read(const T* x, int64_t count, Moments<C> m, C weight, C bias) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) y[i] = (load(x[i]) - m.mean) * m.rstd * weight + bias;
    sigmoids(y, sigmoid);
  }
};

// Calls each(first element, count, channel) for every strip of a group.
template <typename Each>
inline void for_strips(const GroupNormArgs& a, int64_t group, const Each& each) {
  const int64_t width = a.channels / a.groups;
  for (int64_t channel = group * width; channel < (group + 1) * width; ++channel)
    for (int64_t first = 0; first < a.length; first += kStrip)
      each(channel * a.length + first, a.length - first < kStrip ? a.length - first : kStrip, channel);
}

template <typename T>
void forward(const GroupNormArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  const int64_t size = a.channels / a.groups * a.length;
  Strip<T> strip;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t record = task / a.groups, group = task % a.groups;
    const T* x = static_cast<const T*>(a.x) + record * a.channels * a.length;
    T* out = static_cast<T*>(a.out) + record * a.channels * a.length;
    const T* start = x + group * size;
    const Moments<C> m =
        moments<C>(size, a.eps, [=](int64_t i) __attribute__((always_inline)) -> C { return load(start[i]); });
    static_cast<C*>(a.statistics)[2 * task] = m.mean;
    static_cast<C*>(a.statistics)[2 * task + 1] = m.rstd;
    for_strips(a, group, [&](int64_t at, int64_t count, int64_t channel) {
      strip.read(x + at, count, m, load(weight[channel]), load(bias[channel]));
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) store(out + at + i, strip.y[i] * strip.sigmoid[i]);
    });
  }
}

template <typename T>
void backward(const GroupNormGradArgs& g, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const GroupNormArgs& a = g.forward;
  const T *weight = static_cast<const T*>(a.weight), *bias = static_cast<const T*>(a.bias);
  const C share = C(1) / (C(a.channels / a.groups) * C(a.length));
  Strip<T> strip;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t record = task / a.groups, group = task % a.groups, offset = record * a.channels * a.length;
    const T *x = static_cast<const T*>(a.x) + offset, *grad = static_cast<const T*>(g.grad) + offset;
    T* grad_x = static_cast<T*>(g.grad_x) + offset;
    C* total_weight = static_cast<C*>(g.partial_weight) + record * a.channels;
    C* total_bias = static_cast<C*>(g.partial_bias) + record * a.channels;
    const C* statistics = static_cast<const C*>(a.statistics) + 2 * task;
    const Moments<C> m{statistics[0], statistics[1]};
    // Sums over a channel give the gradients of weight and bias, and weighted, the group's two means.
    C mean_g = 0, mean_g_normed = 0;
    for_strips(a, group, [&](int64_t at, int64_t count, int64_t channel) {
      strip.read(x + at, count, m, load(weight[channel]), load(bias[channel]));
      C sum = 0, sum_normed = 0;
#pragma omp simd reduction(+ : sum, sum_normed)
      for (int64_t i = 0; i < count; ++i) {
        const C slope = silu_gradient<C>(load(grad[at + i]), strip.y[i], strip.sigmoid[i]);
        sum += slope;
        sum_normed += slope * (load(x[at + i]) - m.mean) * m.rstd;
      }
      const bool begins = at == channel * a.length;
      total_bias[channel] = begins ? sum : total_bias[channel] + sum;
      total_weight[channel] = begins ? sum_normed : total_weight[channel] + sum_normed;
      mean_g += share * load(weight[channel]) * sum;
      mean_g_normed += share * load(weight[channel]) * sum_normed;
    });
    for_strips(a, group, [&](int64_t at, int64_t count, int64_t channel) {
      const C factor = load(weight[channel]);
      strip.read(x + at, count, m, factor, load(bias[channel]));
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const C slope = silu_gradient<C>(load(grad[at + i]), strip.y[i], strip.sigmoid[i]);
        const C normed = (load(x[at + i]) - m.mean) * m.rstd;
        store(grad_x + at + i, norm_gradient<C>(slope * factor, normed, mean_g, mean_g_normed, m.rstd));
      }
    });
  }
}

}  // namespace

void group_norm_silu(const GroupNormArgs& a, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(a.dtype, (forward<T>(a, begin, end)));
}

void group_norm_silu_backward(const GroupNormGradArgs& g, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(g.forward.dtype, (backward<T>(g, begin, end)));
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
