// Counter-based normal numbers, the same to the bit in Python, on any CPU and on any GPU: Philox 4x32-10 (Salmon et
// al., "Parallel random numbers: as easy as 1, 2, 3", 2011), then Box-Muller in float32 with each operation rounded
// once. CPU files that include this are compiled with -ffp-contract=off.
#pragma once

#include <cmath>

#include "common.h"

namespace ecgtwin {

// Elements 4b .. 4b + 3 of a record's latent come from one counter (b, step, record).
constexpr int64_t kNormalsPerCounter = 4;

// The step under which initial latents are drawn; the sampler's own are 0, 1, 2, ...
constexpr uint32_t kInitialStep = 0xFFFFFFFF;

struct Random4 {
  uint32_t r0, r1, r2, r3;
};

struct Normal2 {
  float cosine, sine;
};

ECGTWIN_INLINE float mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

ECGTWIN_INLINE float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

ECGTWIN_INLINE float square_root(float a) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return sqrtf(a);
#endif
}

ECGTWIN_INLINE Random4 philox(uint32_t block, uint32_t step, uint64_t record, uint64_t seed) {
  uint32_t c0 = block, c1 = step, c2 = static_cast<uint32_t>(record), c3 = static_cast<uint32_t>(record >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = static_cast<uint64_t>(c0) * 0xD2511F53u;
    const uint64_t second = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// The centre of one of 2^23 cells of (0, 1); exact.
ECGTWIN_INLINE float unit_interval(uint32_t bits23) {
  return mul(add(static_cast<float>(static_cast<int32_t>(bits23)), 0.5f), 1.1920928955078125e-7f);
}

// Natural logarithm of a normal positive number, by the polynomial of Cephes' logf.
ECGTWIN_INLINE float log_float(float u) {
  const int32_t bits = static_cast<int32_t>(float_bits(u));
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const float f = add(bits_float(static_cast<uint32_t>(bits) - (static_cast<uint32_t>(exponent) << 23)), -1.0f);
  float p = 7.0376836292e-2f;
  p = add(mul(p, f), -1.1514610310e-1f);
  p = add(mul(p, f), 1.1676998740e-1f);
  p = add(mul(p, f), -1.2420140846e-1f);
  p = add(mul(p, f), 1.4249322787e-1f);
  p = add(mul(p, f), -1.6668057665e-1f);
  p = add(mul(p, f), 2.0000714765e-1f);
  p = add(mul(p, f), -2.4999993993e-1f);
  p = add(mul(p, f), 3.3333331174e-1f);
  const float z = mul(f, f);
  float y = mul(mul(p, f), z);
  y = add(y, -mul(0.5f, z));
  return add(add(f, y), mul(static_cast<float>(exponent), 0.693147182464599609375f));
}

// Two independent standard normals from two random words, by Box-Muller.
ECGTWIN_INLINE Normal2 normal_pair(uint32_t for_radius, uint32_t for_angle) {
  const float logarithm = mul(-2.0f, log_float(unit_interval(for_radius >> 9)));
  const float radius = square_root(logarithm > 0.0f ? logarithm : 0.0f);

  const uint32_t quadrant = for_angle >> 30;
  const float angle = mul(add(unit_interval((for_angle >> 7) & 0x7fffffu), -0.5f), 1.57079637050628662109375f);
  const float square = mul(angle, angle);
  float s = -1.9515295891e-4f;
  s = add(mul(s, square), 8.3321608736e-3f);
  s = add(mul(s, square), -1.6666654611e-1f);
  s = add(mul(mul(s, square), angle), angle);
  float c = 2.443315711809948e-5f;
  c = add(mul(c, square), -1.388731625493765e-3f);
  c = add(mul(c, square), 4.166664568298827e-2f);
  c = mul(mul(c, square), square);
  c = add(add(c, -mul(0.5f, square)), 1.0f);

  const float cosine = quadrant & 1u ? s : c;
  const float sine = quadrant & 1u ? c : s;
  return {mul(radius, quadrant == 1u || quadrant == 2u ? -cosine : cosine),
          mul(radius, quadrant >= 2u ? -sine : sine)};
}

struct Normal4 {
  float at[kNormalsPerCounter];
};

// The normals of one counter.
ECGTWIN_INLINE Normal4 draw_normals(uint32_t counter, uint32_t step, uint64_t record, uint64_t seed) {
  const Random4 random = philox(counter, step, record, seed);
  const Normal2 front = normal_pair(random.r0, random.r1), back = normal_pair(random.r2, random.r3);
  return {{front.cosine, front.sine, back.cosine, back.sine}};
}

}  // namespace ecgtwin
