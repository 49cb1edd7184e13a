// GroupNorm and SiLU of channels that lie in rows.
#pragma once

#if defined(__AVX2__)

#include "cpu/vector.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// Four sums side by side, so that one addition need not wait for the other. count: a multiple of 4 vectors.
template <class Term>
ECGTWIN_INLINE float sum_of(const float* x, int64_t count, const Term& term) {
  Vector sums[4] = {zero(), zero(), zero(), zero()};
  for (int64_t i = 0; i < count; i += 4 * kLanes)
    ECGTWIN_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] += term(load_aligned(x + i + j * kLanes));
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// moments: the mean of `count` elements and the reciprocal of their deviation.
ECGTWIN_NOINLINE void find_moments(const float* x, int64_t count, float eps, float* moments) {
  const float share = 1.0f / static_cast<float>(count);
  const float mean = share * sum_of(x, count, [](Vector value) { return value; });
  const float variance = share * sum_of(x, count, [center = broadcast(mean)](Vector value) {
    const Vector distance = value - center;
    return distance * distance;
  });
  moments[0] = mean;
  moments[1] = 1.0f / __builtin_sqrtf(variance + eps);
}

// SiLU(normalised x * scale + shift) of one channel. count: a multiple of 4 vectors.
template <bool exact>
ECGTWIN_NOINLINE void activate(const float* x, int64_t count, const float* moments, float scale, float shift,
                               float* out) {
  const Vector mean = broadcast(moments[0]), factor = broadcast(moments[1] * scale), offset = broadcast(shift);
  for (int64_t i = 0; i < count; i += 4 * kLanes)
    ECGTWIN_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Vector value = multiply_add(load_aligned(x + i + j * kLanes) - mean, factor, offset);
      store_aligned(out + i + j * kLanes, silu<exact>(value));
    }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
