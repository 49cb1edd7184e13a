// Registers of floats, 16 or 8 wide by the instruction set that a kernel file is compiled for, and the functions of
// them that networks need. Intrinsics only, all with internal linkage: see common.h.
#pragma once

#if defined(__AVX2__)

#include <immintrin.h>

#include "common.h"

#define ECGTWIN_UNROLL _Pragma("GCC unroll 32")
// A function of its own keeps the registers of a product's inner loop apart from its surroundings.
#define ECGTWIN_NOINLINE static __attribute__((noinline))

namespace ecgtwin::ECGTWIN_VARIANT {

constexpr float kLog2E = 1.44269504f;

// Arithmetic operators work on these types as they are.
#if defined(__AVX512F__)
using Vector = __m512;
constexpr int64_t kLanes = 16;

ECGTWIN_INLINE Vector broadcast(float value) { return _mm512_set1_ps(value); }
ECGTWIN_INLINE Vector load_aligned(const float* p) { return _mm512_load_ps(p); }
ECGTWIN_INLINE Vector load_unaligned(const float* p) { return _mm512_loadu_ps(p); }
ECGTWIN_INLINE void store_aligned(float* p, Vector v) { _mm512_store_ps(p, v); }
ECGTWIN_INLINE void store_unaligned(float* p, Vector v) { _mm512_storeu_ps(p, v); }
ECGTWIN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
ECGTWIN_INLINE Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
ECGTWIN_INLINE Vector square_roots(Vector v) { return _mm512_sqrt_ps(v); }
ECGTWIN_INLINE float sum_of_lanes(Vector v) { return _mm512_reduce_add_ps(v); }
// To -limit .. limit: the lesser magnitude, with the sign of v.
ECGTWIN_INLINE Vector clamp(Vector v, float limit) { return _mm512_range_ps(v, broadcast(limit), 0b0010); }
#else
using Vector = __m256;
constexpr int64_t kLanes = 8;

ECGTWIN_INLINE Vector broadcast(float value) { return _mm256_set1_ps(value); }
ECGTWIN_INLINE Vector load_aligned(const float* p) { return _mm256_load_ps(p); }
ECGTWIN_INLINE Vector load_unaligned(const float* p) { return _mm256_loadu_ps(p); }
ECGTWIN_INLINE void store_aligned(float* p, Vector v) { _mm256_store_ps(p, v); }
ECGTWIN_INLINE void store_unaligned(float* p, Vector v) { _mm256_storeu_ps(p, v); }
ECGTWIN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
ECGTWIN_INLINE Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
ECGTWIN_INLINE Vector square_roots(Vector v) { return _mm256_sqrt_ps(v); }
ECGTWIN_INLINE float sum_of_lanes(Vector v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
ECGTWIN_INLINE Vector clamp(Vector v, float limit) {
  return _mm256_min_ps(maximum(v, broadcast(-limit)), broadcast(limit));
}
#endif

// Denormals cost time and carry nothing in these networks: they are zero while this lives.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

ECGTWIN_INLINE Vector zero() { return broadcast(0.0f); }

// The polynomial in x with the coefficients `c`, highest power first.
template <int count>
ECGTWIN_INLINE Vector polynomial(Vector x, const float (&c)[count]) {
  Vector value = broadcast(c[0]);
  ECGTWIN_UNROLL
  for (int i = 1; i < count; ++i) value = multiply_add(value, x, broadcast(c[i]));
  return value;
}

// 2^x, relative error 7e-8 if `exact`, else 2.6e-6 (minimax polynomials over [0, 1)); 0 where it underflows.
template <bool exact>
ECGTWIN_INLINE Vector exp2(Vector x) {
  constexpr float degree6[] = {2.170225521e-04f, 1.243968790e-03f, 9.678840988e-03f, 5.548334199e-02f,
                               2.402298363e-01f, 6.931469838e-01f, 1.000000002e+00f};
  constexpr float degree4[] = {1.353416762e-02f, 5.201146119e-02f, 2.414427565e-01f, 6.930038345e-01f,
                               1.000002593e+00f};
#if defined(__AVX512F__)
  // x - floor(x), by rounding down to 0 bits after the binary point.
  const Vector fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
  const Vector inside = _mm256_min_ps(maximum(x, broadcast(-127.0f)), broadcast(127.9f));
  const Vector whole = _mm256_floor_ps(inside), fraction = inside - whole;
#endif
  Vector power;
  if constexpr (exact)
    power = polynomial(fraction, degree6);
  else
    power = polynomial(fraction, degree4);
#if defined(__AVX512F__)
  return _mm512_scalef_ps(power, x);
#else
  // A biased exponent of 0 at -127 makes a zero.
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(whole), _mm256_set1_epi32(127)), 23);
  return power * _mm256_castsi256_ps(exponent);
#endif
}

// a / b, to 14 bits unless `exact`.
template <bool exact>
ECGTWIN_INLINE Vector quotient(Vector a, Vector b) {
#if defined(__AVX512F__)
  if constexpr (!exact) return a * _mm512_rcp14_ps(b);
#endif
  return a / b;
}

// x sigmoid(x).
template <bool exact>
ECGTWIN_INLINE Vector silu(Vector x) {
  return quotient<exact>(x, broadcast(1.0f) + exp2<exact>(x * broadcast(-kLog2E)));
}

// The tanh form of GELU: x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) if `exact`; else the sigmoid is a minimax polynomial,
// odd but for 1/2, up to |x| = 3.6 and constant beyond, within 2.2e-4: a tenth of what bfloat16 rounds away.
template <bool exact>
ECGTWIN_INLINE Vector gelu(Vector x) {
  if constexpr (exact) {
    constexpr float linear = -2.0f * kLog2E * 0.7978845608f;
    const Vector exponent = x * multiply_add(x * x, broadcast(linear * 0.044715f), broadcast(linear));
    return quotient<true>(x, broadcast(1.0f) + exp2<true>(exponent));
  } else {
    constexpr float odd[] = {-7.683900662e-07f, 3.715902494e-05f, -7.569969748e-04f,
                             8.692778647e-03f, -6.472994387e-02f, 3.980997205e-01f};
    const Vector inside = clamp(x, 3.6f);
    return x * multiply_add(inside, polynomial(inside * inside, odd), broadcast(0.5f));
  }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
