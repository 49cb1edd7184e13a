// CPU kernels of the modulated norm: each row stays in the first-level cache while it is passed over three times.
#include "modulated_norm.h"

#include "cpu/moments.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

// Rows up to this width are widened to the compute type once, wider ones at each pass.
constexpr int64_t kBuffered = 1024;

template <typename T, bool residual>
void forward(const NormArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t width = a.width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t record = row / a.length;
    const T* x = static_cast<const T*>(a.x) + row * width;
    const T* y = residual ? static_cast<const T*>(a.y) + row * width : nullptr;
    const T* gate = residual ? static_cast<const T*>(a.gate) + record * a.gate_stride : nullptr;
    const T* shift = static_cast<const T*>(a.shift) + record * a.shift_stride;
    const T* scale = static_cast<const T*>(a.scale) + record * a.scale_stride;
    T* out = static_cast<T*>(a.out) + row * width;
    T* sum = residual ? static_cast<T*>(a.sum) + row * width : nullptr;
    auto value = [=](int64_t i) __attribute__((always_inline)) -> C {
      if constexpr (residual) return load(x[i]) + load(gate[i]) * load(y[i]);
      else return load(x[i]);
    };
    auto finish = [=](auto element) __attribute__((always_inline)) {
      const Moments<C> m = moments<C>(width, a.eps, element);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i)
        store(out + i, modulated<C>(element(i), m.mean, m.rstd, load(shift[i]), load(scale[i])));
    };
    constexpr bool stored_as_computed = !residual && sizeof(T) == sizeof(C);
    if (!stored_as_computed && width <= kBuffered) {
      C buffer[kBuffered];
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        buffer[i] = value(i);
        if constexpr (residual) store(sum + i, buffer[i]);
      }
      finish([&](int64_t i) __attribute__((always_inline)) -> C { return buffer[i]; });
    } else {
      if constexpr (residual)
        for (int64_t i = 0; i < width; ++i) store(sum + i, value(i));
      finish(value);
    }
  }
}

template <typename T, bool residual>
void backward(const NormGradArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t width = a.width;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t record = task / a.chunks;
    const int64_t first = task % a.chunks * kChunkRows;
    const int64_t last = first + kChunkRows < a.length ? first + kChunkRows : a.length;
    const T* scale = static_cast<const T*>(a.scale) + record * a.scale_stride;
    const T* gate = residual ? static_cast<const T*>(a.gate) + record * a.gate_stride : nullptr;
    C* total_shift = static_cast<C*>(a.partial_shift) + task * width;
    C* total_scale = static_cast<C*>(a.partial_scale) + task * width;
    C* total_gate = residual ? static_cast<C*>(a.partial_gate) + task * width : nullptr;
    for (int64_t i = 0; i < width; ++i) {
      total_shift[i] = 0;
      total_scale[i] = 0;
      if constexpr (residual) total_gate[i] = 0;
    }
    for (int64_t row = record * a.length + first; row < record * a.length + last; ++row) {
      const T* sum = static_cast<const T*>(a.sum) + row * width;
      const T* grad = static_cast<const T*>(a.grad_norm) + row * width;
      const T* y = residual ? static_cast<const T*>(a.y) + row * width : nullptr;
      const T* grad_sum = residual ? static_cast<const T*>(a.grad_sum) + row * width : nullptr;
      T* grad_x = static_cast<T*>(a.grad_x) + row * width;
      T* grad_y = residual ? static_cast<T*>(a.grad_y) + row * width : nullptr;
      const Moments<C> m =
          moments<C>(width, a.eps, [=](int64_t i) __attribute__((always_inline)) -> C { return load(sum[i]); });
      C total_g = 0, total_g_normed = 0;
#pragma omp simd reduction(+ : total_g, total_g_normed)
      for (int64_t i = 0; i < width; ++i) {
        const C g = load(grad[i]) * (C(1) + load(scale[i]));
        total_g += g;
        total_g_normed += g * (load(sum[i]) - m.mean) * m.rstd;
      }
      const C mean_g = total_g / C(width), mean_g_normed = total_g_normed / C(width);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const C incoming = load(grad[i]);
        const C normed = (load(sum[i]) - m.mean) * m.rstd;
        C result = norm_gradient<C>(incoming * (C(1) + load(scale[i])), normed, mean_g, mean_g_normed, m.rstd);
        total_shift[i] += incoming;
        total_scale[i] += incoming * normed;
        if constexpr (residual) {
          result += load(grad_sum[i]);
          total_gate[i] += result * load(y[i]);
          store(grad_y + i, result * load(gate[i]));
        }
        store(grad_x + i, result);
      }
    }
  }
}

}  // namespace

void modulated_norm(const NormArgs& a, int64_t begin, int64_t end) {
  if (a.gate) ECGTWIN_DISPATCH(a.dtype, (forward<T, true>(a, begin, end)));
  else ECGTWIN_DISPATCH(a.dtype, (forward<T, false>(a, begin, end)));
}

void modulated_norm_backward(const NormGradArgs& a, int64_t begin, int64_t end) {
  if (a.gate) ECGTWIN_DISPATCH(a.dtype, (backward<T, true>(a, begin, end)));
  else ECGTWIN_DISPATCH(a.dtype, (backward<T, false>(a, begin, end)));
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
