// The matrix instructions of a warp: PTX for sm_80 and later on the device, the same by definition on the host.
#pragma once

#include "launch.cuh"

namespace ecgtwin::cuda {

#if defined(__CUDACC__)

// Two values rounded to bfloat16, `low` in the lower half.
__device__ __forceinline__ uint32_t packed(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Four 8 x 8 matrices from shared memory. Lane l names row l % 8 of matrix l / 8; register j of lane l receives
// elements 2 (l % 4) and the next of row l / 4 of matrix j, or, transposed, of its column l / 4.
template <bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const BFloat16* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}

// sum (16 x 8, float32) += a (16 x 16) b (16 x 8), bfloat16. With g = l / 4 and t = 2 (l % 4), lane l holds rows g and
// g + 8 of the sum in columns t, t + 1; of a, those rows in columns t, t + 1 and then t + 8, t + 9; of b, rows t, t + 1
// and then t + 8, t + 9 in column g.
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

inline uint32_t packed(float low, float high) {
  BFloat16 pair[2];
  store(&pair[0], low);
  store(&pair[1], high);
  return pair[0].bits | static_cast<uint32_t>(pair[1].bits) << 16;
}

template <bool transposed>
void load_matrices(uint32_t (&to)[4], const BFloat16* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) throw std::logic_error("a row of ldmatrix is not aligned");
  const emulation::Brought<const BFloat16*> rows(row, emulation::Operation::load_matrices);
  const unsigned own = emulation::lane() / 4, next = emulation::lane() % 4 * 2;
  for (unsigned j = 0; j < 4; ++j) {
    const BFloat16 low = transposed ? rows[8 * j + next][own] : rows[8 * j + own][next];
    const BFloat16 high = transposed ? rows[8 * j + next + 1][own] : rows[8 * j + own][next + 1];
    to[j] = low.bits | static_cast<uint32_t>(high.bits) << 16;
  }
}

inline float half_of(uint32_t pair, unsigned index) {
  return load(BFloat16{static_cast<uint16_t>(pair >> 16 * index)});
}

inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const emulation::Brought<Operands> all({{a[0], a[1], a[2], a[3]}, {b0, b1}}, emulation::Operation::product);
  const unsigned row = emulation::lane() / 4, column = emulation::lane() % 4 * 2;
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned from = k % 8 / 2, upper = k / 8;
      const uint32_t left = all[row * 4 + from].a[i / 2 + 2 * upper];
      const uint32_t right = all[(column + i % 2) * 4 + from].b[upper];
      sum[i] += half_of(left, k % 2) * half_of(right, k % 2);
    }
}

#endif

}  // namespace ecgtwin::cuda
