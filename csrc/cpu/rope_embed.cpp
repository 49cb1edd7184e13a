// CPU kernels of the rotary embedding: strips of 64 pairs stay in registers or the first-level cache.
#include "rope_embed.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

constexpr int64_t kStrip = 64;

inline int64_t strip_size(int64_t first, int64_t half) { return half - first < kStrip ? half - first : kStrip; }

template <typename T>
void forward(const RopeArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t half = a.width / 2;
  const C* weight = static_cast<const C*>(a.weight);
  const C* bias = static_cast<const C*>(a.bias);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t record = row / a.length, position = row % a.length;
    const T* x = static_cast<const T*>(a.x) + record * a.channels * a.length + position;
    const C* cosine = static_cast<const C*>(a.cosine) + position * half;
    const C* sine = static_cast<const C*>(a.sine) + position * half;
    T* out = static_cast<T*>(a.out) + row * a.width;
    for (int64_t start = 0; start < half; start += kStrip) {
      const int64_t size = strip_size(start, half);
      C first[kStrip], second[kStrip];
      for (int64_t i = 0; i < size; ++i) {
        first[i] = bias[start + i];
        second[i] = bias[half + start + i];
      }
      for (int64_t c = 0; c < a.channels; ++c) {
        const C value = load(x[c * a.length]);
        const C* column = weight + c * a.width + start;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {
          first[i] += column[i] * value;
          second[i] += column[half + i] * value;
        }
      }
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) {
        const Pair<C> turned = rotated<C>(first[i], second[i], cosine[start + i], sine[start + i]);
        store(out + start + i, turned.first);
        store(out + half + start + i, turned.second);
      }
    }
  }
}

template <typename T>
void backward(const RopeGradArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const int64_t half = a.width / 2;
  const C* weight = static_cast<const C*>(a.weight);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t record = task / a.chunks;
    const int64_t begin_position = task % a.chunks * kChunkPositions;
    const int64_t end_position =
        begin_position + kChunkPositions < a.length ? begin_position + kChunkPositions : a.length;
    const T* x = static_cast<const T*>(a.x) + record * a.channels * a.length;
    C* grad_x = static_cast<C*>(a.grad_x) + record * a.channels * a.length;
    C* partial = static_cast<C*>(a.partial) + task * (a.channels + 1) * a.width;
    for (int64_t i = 0; i < (a.channels + 1) * a.width; ++i) partial[i] = 0;
    for (int64_t position = begin_position; position < end_position; ++position) {
      const T* grad = static_cast<const T*>(a.grad) + (record * a.length + position) * a.width;
      const C* cosine = static_cast<const C*>(a.cosine) + position * half;
      const C* sine = static_cast<const C*>(a.sine) + position * half;
      for (int64_t start = 0; start < half; start += kStrip) {
        const int64_t size = strip_size(start, half);
        C first[kStrip], second[kStrip];
        C* bias_row = partial + a.channels * a.width + start;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) {
          const Pair<C> turned =
              rotated<C>(load(grad[start + i]), load(grad[half + start + i]), cosine[start + i], -sine[start + i]);
          first[i] = turned.first;
          second[i] = turned.second;
          bias_row[i] += turned.first;
          bias_row[half + i] += turned.second;
        }
        for (int64_t c = 0; c < a.channels; ++c) {
          const C value = load(x[c * a.length + position]);
          const C* column = weight + c * a.width + start;
          C* row = partial + c * a.width + start;
          C total = 0;
#pragma omp simd reduction(+ : total)
          for (int64_t i = 0; i < size; ++i) {
            total += column[i] * first[i] + column[half + i] * second[i];
            row[i] += value * first[i];
            row[half + i] += value * second[i];
          }
          C* target = grad_x + c * a.length + position;
          *target = start == 0 ? total : *target + total;
        }
      }
    }
  }
}

}  // namespace

void rope_embed(const RopeArgs& a, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(a.dtype, (forward<T>(a, begin, end)));
}

void rope_embed_backward(const RopeGradArgs& a, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(a.dtype, (backward<T>(a, begin, end)));
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
