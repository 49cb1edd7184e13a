// Matrix products of packed weights with a panel of activations: the micro-kernel, and the formats around it.
// Positions lie in SIMD lanes and weights are broadcast, so nothing is ever transposed or reduced across lanes.
#pragma once

#if defined(__AVX2__)

#include "cpu/vector.h"
#include "product_layout.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// Both precisions: `rows` x `vectors` accumulators make up the micro-kernel; `Operand` is a register of dwords.
struct Float32 {
  static constexpr bool exact = true;
  static constexpr int64_t pack = 1, vectors = 2, rows = kLanes == 16 ? 8 : 4, tile = vectors * kLanes;
  using Operand = Vector;
  using Element = float;
  ECGTWIN_INLINE Operand read(const uint32_t* p) { return load_aligned(reinterpret_cast<const float*>(p)); }
  ECGTWIN_INLINE Operand read_one(const uint32_t* p) { return broadcast(bits_float(*p)); }
  ECGTWIN_INLINE Vector dot(Vector sum, Operand a, Operand b) { return multiply_add(a, b, sum); }
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
  static constexpr bool exact = false;
  static constexpr int64_t pack = 2, vectors = 4, rows = 4, tile = vectors * kLanes;
  using Operand = __m512i;
  using Element = uint16_t;
  ECGTWIN_INLINE Operand read(const uint32_t* p) { return _mm512_load_si512(p); }
  ECGTWIN_INLINE Operand read_one(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  ECGTWIN_INLINE Vector dot(Vector sum, Operand a, Operand b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

// Tiles as wide as Float32's: see narrow_layout.
struct NarrowBfloat16 : Bfloat16 {
  static constexpr int64_t vectors = 2, rows = 8, tile = vectors * kLanes;
};

// Dword i is the pair of first[i] and second[i].
ECGTWIN_INLINE __m512i interleave(Vector first, Vector second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}
#endif

// A block of a product's result: R rows of one tile of positions.
template <class T, int64_t R>
using Block = Vector[R][T::vectors];

#define ECGTWIN_EACH(R)                      \
  ECGTWIN_UNROLL for (int i = 0; i < (R); ++i) \
  ECGTWIN_UNROLL for (int j = 0; j < T::vectors; ++j)

// T::rows rows of weights times a panel, handed to epilogue(block). Row i of pair k is at weights[i * row + k * step].
// `ahead` dwords of what follows the weights are prefetched on the way.
template <class T, int ahead, class Epilogue>
ECGTWIN_INLINE void multiply(const uint32_t* __restrict weights, int64_t row, int64_t step,
                             const uint32_t* __restrict panel, int64_t pairs, const Epilogue& epilogue) {
  Block<T, T::rows> sum;
  ECGTWIN_EACH(T::rows) sum[i][j] = zero();
  for (int64_t k = 0; k < pairs; k += 2) {
    if constexpr (ahead > 0) _mm_prefetch(reinterpret_cast<const char*>(weights + ahead), _MM_HINT_T0);
    ECGTWIN_UNROLL
    for (int twice = 0; twice < 2; ++twice) {
      typename T::Operand positions[T::vectors];
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) positions[j] = T::read(panel + j * kLanes);
      ECGTWIN_UNROLL
      for (int i = 0; i < T::rows; ++i) {
        const typename T::Operand weight = T::read_one(weights + i * row);
        ECGTWIN_UNROLL
        for (int j = 0; j < T::vectors; ++j) sum[i][j] = T::dot(sum[i][j], weight, positions[j]);
      }
      panel += T::tile;
      weights += step;
    }
  }
  epilogue(sum);
}

// `rows` rows of packed weights times a panel: epilogue(first row of the strip, block) for each strip.
template <class T, class Epilogue>
ECGTWIN_INLINE void product(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                            const Epilogue& epilogue) {
  for (int64_t row = 0; row < rows; row += T::rows, weights += T::rows * pairs)
    multiply<T, 512>(weights, 1, T::rows, panel, pairs,
                     [&](Block<T, T::rows>& block) __attribute__((always_inline)) { epilogue(row, block); });
}

// Rows `row`.. of a panel whose pairs are `stride` dwords apart.
template <class T, int64_t R>
ECGTWIN_INLINE void store_panel(uint32_t* panel, int64_t stride, int64_t row, const Vector (&block)[R][T::vectors]) {
#if defined(__AVX512BF16__)
  if constexpr (!T::exact) {
    ECGTWIN_UNROLL
    for (int i = 0; i < R; i += 2)
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j)
        _mm512_store_si512(panel + (row + i) / 2 * stride + j * kLanes, interleave(block[i][j], block[i + 1][j]));
    return;
  }
#endif
  ECGTWIN_EACH(R) store_aligned(reinterpret_cast<float*>(panel) + (row + i) * stride + j * kLanes, block[i][j]);
}

// Rows `row`.. of a matrix of elements [row][stride], from position `first`.
template <class T, int64_t R>
ECGTWIN_INLINE void store_elements(uint32_t* matrix, int64_t stride, int64_t row, int64_t first,
                                   const Vector (&block)[R][T::vectors]) {
  typename T::Element* target = reinterpret_cast<typename T::Element*>(matrix) + row * stride + first;
#if defined(__AVX512BF16__)
  if constexpr (!T::exact) {
    ECGTWIN_UNROLL
    for (int i = 0; i < R; ++i)
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; j += 2)
        _mm512_store_si512(target + i * stride + j * kLanes,
                           reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(block[i][j + 1], block[i][j])));
    return;
  }
#endif
  ECGTWIN_EACH(R)
  store_aligned(reinterpret_cast<float*>(target) + i * stride + j * kLanes, block[i][j]);
}

// rows x weights + bias, to a matrix of floats [row][stride]; added to what is there if `accumulate`.
template <class T, bool accumulate>
ECGTWIN_NOINLINE void linear(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                             const float* bias, float* out, int64_t stride) {
  product<T>(weights, panel, rows, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    ECGTWIN_EACH(T::rows) {
      float* place = out + (row + i) * stride + j * kLanes;
      const Vector value = block[i][j] + broadcast(bias[row + i]);
      store_aligned(place, accumulate ? load_aligned(place) + value : value);
    }
  });
}

// out += gate (weights x panel + bias); no bias where it is null. While a strip is multiplied, the rows of `out` that it
// is added to come from the L2 cache.
template <class T>
ECGTWIN_NOINLINE void gated_linear(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                                   const float* bias, const float* gate, float* out, int64_t stride) {
  product<T>(weights, panel, rows, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    ECGTWIN_EACH(T::rows) {
      float* place = out + (row + i) * stride + j * kLanes;
      _mm_prefetch(reinterpret_cast<const char*>(place + T::rows * stride), _MM_HINT_T0);
      const Vector value = bias ? block[i][j] + broadcast(bias[row + i]) : block[i][j];
      store_aligned(place, multiply_add(broadcast(gate[row + i]), value, load_aligned(place)));
    }
  });
}

// scale (weights x panel + bias), as a panel whose pairs are `stride` dwords apart; no bias where it is null.
template <class T>
ECGTWIN_NOINLINE void linear_to_panel(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                                      const float* bias, float scale, uint32_t* out, int64_t stride) {
  product<T>(weights, panel, rows, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    if (bias) ECGTWIN_EACH(T::rows) block[i][j] = (block[i][j] + broadcast(bias[row + i])) * broadcast(scale);
    store_panel<T, T::rows>(out, stride, row, block);
  });
}

// weights x panel, as a matrix of elements [row][stride] from position `first`.
template <class T>
ECGTWIN_NOINLINE void linear_to_elements(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                                         uint32_t* out, int64_t stride, int64_t first) {
  product<T>(weights, panel, rows, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    store_elements<T, T::rows>(out, stride, row, first, block);
  });
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
