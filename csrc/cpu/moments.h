// Mean and deviation of a row of any element type.
#pragma once

#include <math.h>

#include "norm.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

// The sum of value(0) .. value(width - 1) in two halves at once, so that no addition waits for the one before.
template <typename C, typename Value>
inline __attribute__((always_inline)) C sum_of(int64_t width, Value value) {
  const int64_t half = width / 2;
  C front = width % 2 ? value(width - 1) : C(0), back = 0;
#pragma omp simd reduction(+ : front, back)
  for (int64_t i = 0; i < half; ++i) {
    front += value(i);
    back += value(half + i);
  }
  return front + back;
}

template <typename C, typename Value>
inline __attribute__((always_inline)) Moments<C> moments(int64_t width, double eps, Value value) {
  const C mean = sum_of<C>(width, value) / C(width);
  const C squares = sum_of<C>(width, [=](int64_t i) __attribute__((always_inline)) -> C {
    const C centred = value(i) - mean;
    return centred * centred;
  });
  return {mean, C(1) / C(sqrt(squares / C(width) + C(eps)))};
}

}  // namespace
}  // namespace ecgtwin::ECGTWIN_VARIANT
