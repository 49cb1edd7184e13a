// CPU kernel of tanh_gelu and its gradient.
#include "tanh_gelu.h"

#include "cpu/vector.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

template <typename T, bool gradient>
void scalars(const GeluArgs& a, int64_t begin, int64_t end) {
  using C = Compute<T>;
  for (int64_t i = begin; i < end; ++i) {
    const C x = load(static_cast<const T*>(a.x)[i]);
    const C grad = gradient ? C(load(static_cast<const T*>(a.grad)[i])) : C(0);
    store(static_cast<T*>(a.out) + i, gelu_element<gradient>(x, grad));
  }
}

#if defined(__AVX512F__)

ECGTWIN_INLINE Vector widen(const float* p) { return load_unaligned(p); }
ECGTWIN_INLINE Vector widen(const BFloat16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
ECGTWIN_INLINE void narrow(float* p, Vector v) { store_unaligned(p, v); }
ECGTWIN_INLINE void narrow(BFloat16* p, Vector v) {
  // To the nearest, ties to even: `store` of common.h, but for NaN, which is kept by the mask.
  const __m512i bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0))));
}

template <typename T, bool gradient>
void vectors(const GeluArgs& a, int64_t begin, int64_t end) {
  const Vector one = broadcast(1.0f), linear = broadcast(kGeluLinear), cubic = broadcast(kGeluCubic);
  const auto lanes = [=](const T* grad, const T* from, T* to) __attribute__((always_inline)) {
    const Vector x = widen(from);
    const Vector u = x * (cubic * x * x + one), size = _mm512_abs_ps(u) * broadcast(-kGeluLinear * kLog2E);
    const Vector power = exp2<true>(size), large = one / (one + power), small = power * large;
    const Vector s = _mm512_mask_mov_ps(large, _mm512_cmp_ps_mask(u, zero(), _CMP_LT_OQ), small);
    Vector value = x * s;
    if constexpr (gradient)
      value = gelu_gradient<Vector>(clamp(x, kGeluNear), s, large * small, one, linear, cubic) * widen(grad);
    narrow(to, value);
  };
  const T *grad = static_cast<const T*>(a.grad), *x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) lanes(grad + i, x + i, out + i);
  // The last few go the same way, so that an element's result does not depend on its place.
  T last_x[kLanes]{}, last_grad[kLanes]{}, last[kLanes];
  memcpy(last_x, x + i, sizeof(T) * (end - i));
  if constexpr (gradient) memcpy(last_grad, grad + i, sizeof(T) * (end - i));
  lanes(last_grad, last_x, last);
  memcpy(out + i, last, sizeof(T) * (end - i));
}

template <bool gradient>
void range(const GeluArgs& a, int64_t begin, int64_t end) {
  if (a.dtype == Dtype::float32) return vectors<float, gradient>(a, begin, end);
  if (a.dtype == Dtype::bfloat16) return vectors<BFloat16, gradient>(a, begin, end);
  scalars<double, gradient>(a, begin, end);
}

#else

template <bool gradient>
void range(const GeluArgs& a, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(a.dtype, (scalars<T, gradient>(a, begin, end)));
}

#endif

}  // namespace

void tanh_gelu(const GeluArgs& a, int64_t begin, int64_t end) {
  const int64_t first = begin * kGeluChunk, last = end * kGeluChunk < a.count ? end * kGeluChunk : a.count;
  if (a.grad)
    range<true>(a, first, last);
  else
    range<false>(a, first, last);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
