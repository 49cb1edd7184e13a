// Types that host, CPU kernels and CUDA kernels share. Everything is static: kernel files are compiled once for each
// instruction set, and a function with external linkage could end up as its AVX-512 copy on a machine without it.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ECGTWIN_INLINE __host__ __device__ static __forceinline__
#else
#define ECGTWIN_INLINE static inline __attribute__((always_inline))
#endif

namespace ecgtwin {

enum class Dtype : int32_t { float32, bfloat16, float64 };

struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
// What a kernel computes and accumulates in when tensors hold T.
template <typename T>
using Compute = typename ComputeOf<T>::type;

ECGTWIN_INLINE uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

ECGTWIN_INLINE float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

ECGTWIN_INLINE float load(float value) { return value; }
ECGTWIN_INLINE double load(double value) { return value; }
ECGTWIN_INLINE float load(BFloat16 value) { return bits_float(static_cast<uint32_t>(value.bits) << 16); }

ECGTWIN_INLINE void store(float* target, float value) { *target = value; }
ECGTWIN_INLINE void store(double* target, double value) { *target = value; }
// Rounds to the nearest, ties to even; NaN stays NaN.
ECGTWIN_INLINE void store(BFloat16* target, float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  target->bits = static_cast<uint16_t>(value == value ? rounded : 0x7fc0u);
}

}  // namespace ecgtwin

// Calls CALL with T as the element type that DTYPE names.
#define ECGTWIN_DISPATCH(DTYPE, CALL)                          \
  do {                                                         \
    switch (DTYPE) {                                           \
      case ::ecgtwin::Dtype::float32: { using T = float; CALL; break; }      \
      case ::ecgtwin::Dtype::bfloat16: { using T = ::ecgtwin::BFloat16; CALL; break; } \
      case ::ecgtwin::Dtype::float64: { using T = double; CALL; break; }     \
    }                                                          \
  } while (false)
