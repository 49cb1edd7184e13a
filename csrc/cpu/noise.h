// Blocks of counter-based normal numbers, vectorised. Files that include this are compiled with -ffp-contract=off.
#pragma once

#include "philox.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// kNormalsPerCounter * counters normals of one record at one step, from the counters first_counter, first_counter + 1, ...
template <int64_t counters>
static void draw_normals(uint64_t seed, uint64_t record, uint32_t step, uint32_t first_counter, float* out) {
  uint32_t words[4][counters];
#pragma omp simd
  for (int64_t i = 0; i < counters; ++i) {
    const Random4 random = philox(first_counter + static_cast<uint32_t>(i), step, record, seed);
    words[0][i] = random.r0;
    words[1][i] = random.r1;
    words[2][i] = random.r2;
    words[3][i] = random.r3;
  }
  float normals[4][counters];
  for (int64_t pair = 0; pair < 4; pair += 2) {
#pragma omp simd
    for (int64_t i = 0; i < counters; ++i) {
      const Normal2 normal = normal_pair(words[pair][i], words[pair + 1][i]);
      normals[pair][i] = normal.cosine;
      normals[pair + 1][i] = normal.sine;
    }
  }
  for (int64_t i = 0; i < kNormalsPerCounter * counters; ++i) out[i] = normals[i % 4][i / 4];
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
