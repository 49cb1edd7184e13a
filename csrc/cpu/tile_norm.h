// LayerNorm over the channels of a tile of positions, into the panel of the next product.
#pragma once

#if defined(__AVX2__)

#include "cpu/product.h"

namespace ecgtwin::ECGTWIN_VARIANT {

enum class Affine { none, scale_shift, one_plus_scale_shift };

// Normalises x, a matrix [channels][T::tile] of floats, over its channels and applies scale and shift by channel.
template <class T, Affine affine>
ECGTWIN_NOINLINE void layer_norm(const float* x, int64_t channels, const float* scale, const float* shift, float eps,
                                 uint32_t* panel) {
  const Vector share = broadcast(1.0f / static_cast<float>(channels));
  // Two sums each, so that one addition need not wait for the other.
  Block<T, 2> sum;
  ECGTWIN_EACH(2) sum[i][j] = zero();
  for (int64_t c = 0; c < channels; c += 2)
    ECGTWIN_EACH(2) sum[i][j] += load_aligned(x + (c + i) * T::tile + j * kLanes);
  Vector mean[T::vectors], factor[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) mean[j] = (sum[0][j] + sum[1][j]) * share;

  ECGTWIN_EACH(2) sum[i][j] = zero();
  for (int64_t c = 0; c < channels; c += 2)
    ECGTWIN_EACH(2) {
      const Vector distance = load_aligned(x + (c + i) * T::tile + j * kLanes) - mean[j];
      sum[i][j] = multiply_add(distance, distance, sum[i][j]);
    }
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j)
    factor[j] = broadcast(1.0f) / square_roots(multiply_add(sum[0][j] + sum[1][j], share, broadcast(eps)));

  for (int64_t c = 0; c < channels; c += 2) {
    Block<T, 2> value;
    ECGTWIN_EACH(2) {
      value[i][j] = (load_aligned(x + (c + i) * T::tile + j * kLanes) - mean[j]) * factor[j];
      if constexpr (affine == Affine::scale_shift)
        value[i][j] = multiply_add(value[i][j], broadcast(scale[c + i]), broadcast(shift[c + i]));
      if constexpr (affine == Affine::one_plus_scale_shift)
        value[i][j] = multiply_add(value[i][j], broadcast(1.0f + scale[c + i]), broadcast(shift[c + i]));
    }
    store_panel<T, 2>(panel, T::tile, c, value);
  }
}

// x, a matrix [channels][stride] of floats, times `scale`, as it is into a panel.
template <class T>
ECGTWIN_NOINLINE void to_panel(const float* x, int64_t stride, int64_t channels, float scale, uint32_t* panel) {
  for (int64_t c = 0; c < channels; c += 2) {
    Block<T, 2> value;
    ECGTWIN_EACH(2) value[i][j] = load_aligned(x + (c + i) * stride + j * kLanes) * broadcast(scale);
    store_panel<T, 2>(panel, T::tile, c, value);
  }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
