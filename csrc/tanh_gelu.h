// GELU in its tanh form, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), and its gradient. A task is kGeluChunk elements.
#pragma once

#include <math.h>

#include "common.h"
#include "kernel.h"

namespace ecgtwin {

constexpr int64_t kGeluChunk = 4096;
constexpr double kGeluLinear = 1.5957691216057308;  // 2 sqrt(2/pi)
constexpr double kGeluCubic = 0.044715;
constexpr double kGeluNear = 20;  // s (1 - s) is zero beyond

struct GeluArgs {
  const void* grad;  // null: the function itself
  const void* x;
  void* out;
  int64_t count;
  Dtype dtype;
};

// With u = kGeluLinear (x + kGeluCubic x^3), whose sigmoid is s, and near_x = x clamped to +-kGeluNear:
// the derivative, s + x s (1 - s) u'. It takes the product s (1 - s), so that no digits cancel.
template <typename V>
ECGTWIN_INLINE V gelu_gradient(V near_x, V s, V product, V one, V linear, V cubic) {
  return s + near_x * product * linear * (one + (cubic + cubic + cubic) * near_x * near_x);
}

// The function of one element, or its derivative times `grad`.
template <bool gradient, typename C>
ECGTWIN_INLINE C gelu_element(C x, C grad) {
  const C u = C(kGeluLinear) * (x + C(kGeluCubic) * x * x * x), power = exp(-fabs(u));
  const C large = C(1) / (C(1) + power), small = power * large, s = u > 0 ? large : small;
  if (!gradient) return x * s;
  const C near_x = fmin(fmax(x, C(-kGeluNear)), C(kGeluNear));
  return gelu_gradient<C>(near_x, s, large * small, C(1), C(kGeluLinear), C(kGeluCubic)) * grad;
}

ECGTWIN_DECLARE_KERNEL(tanh_gelu, GeluArgs)

}  // namespace ecgtwin
