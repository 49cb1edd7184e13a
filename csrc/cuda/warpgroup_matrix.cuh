// The matrix instructions of a warpgroup, four warps with 64 rows (wgmma): PTX for sm_90a alone on the device, the same
// by definition on the host.
#pragma once

#include "launch.cuh"

#if !defined(__CUDACC__)
#include "emulation_warpgroup.h"
#endif

namespace ecgtwin::cuda {

// A factor in shared memory as matrices of 8 x 8 elements in 128 bytes each, without swizzle: bytes to the matrix 8
// deeper, and to that 8 rows of a left or columns of a right factor further.
__device__ __forceinline__ uint64_t describe(const BFloat16* factor, int deeper, int further) {
  unsigned low = (shared_address(factor) & 0x3ffff) >> 4 | static_cast<unsigned>(deeper >> 4) << 16;
#if defined(__CUDACC__)
  // Otherwise the compiler keeps the descriptors of many products, in registers that are not there.
  asm volatile("" : "+r"(low));
#endif
  return low | static_cast<uint64_t>(further >> 4) << 32;
}

// The same of what lies so many elements on.
__device__ __forceinline__ uint64_t moved(uint64_t descriptor, int elements) {
  return descriptor + static_cast<unsigned>(elements) * sizeof(BFloat16) / 16;
}

#if defined(__CUDACC__)

#define ECGTWIN_FOUR(n) "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
#define ECGTWIN_SUMS_16 ECGTWIN_FOUR(0), ECGTWIN_FOUR(1)
#define ECGTWIN_SUMS_32 ECGTWIN_SUMS_16, ECGTWIN_FOUR(2), ECGTWIN_FOUR(3)
#define ECGTWIN_SUMS_64 ECGTWIN_SUMS_32, ECGTWIN_FOUR(4), ECGTWIN_FOUR(5), ECGTWIN_FOUR(6), ECGTWIN_FOUR(7)
#define ECGTWIN_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define ECGTWIN_NAMES_32 ECGTWIN_NAMES_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define ECGTWIN_NAMES_64 \
  ECGTWIN_NAMES_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ECGTWIN_PRODUCT(COLUMNS, ADD, FACTORS, ...)                                  \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                  \
               "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32.bf16.bf16 "      \
               "{" ECGTWIN_NAMES_##COLUMNS "}, " FACTORS ";\n}"                       \
               : ECGTWIN_SUMS_##COLUMNS : __VA_ARGS__)

// sum (64 x columns), or zero where it is not to `add`, += left (64 x 16) times right (16 x columns). Each warp has 16
// rows of the sum, and of a left factor in registers, as in the products of a warp. In shared memory depth runs fastest,
// or, `transposed`, columns of the right factor do.
template <int columns, bool transposed>
__device__ __forceinline__ void begin_product(float (*sum)[4], const uint32_t (&left)[4], uint64_t right, bool add) {
#define ECGTWIN_FACTORS \
  "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "n"(transposed ? 1 : 0), "r"(add ? 1 : 0)
  static_assert(columns == 16 || columns == 32 || columns == 64);
  if constexpr (columns == 16)
    ECGTWIN_PRODUCT(16, "%14", "{%8, %9, %10, %11}, %12, add, 1, 1, %13", ECGTWIN_FACTORS);
  else if constexpr (columns == 32)
    ECGTWIN_PRODUCT(32, "%22", "{%16, %17, %18, %19}, %20, add, 1, 1, %21", ECGTWIN_FACTORS);
  else
    ECGTWIN_PRODUCT(64, "%38", "{%32, %33, %34, %35}, %36, add, 1, 1, %37", ECGTWIN_FACTORS);
#undef ECGTWIN_FACTORS
}
template <int columns, bool transposed>
__device__ __forceinline__ void begin_product(float (*sum)[4], uint64_t left, uint64_t right, bool add) {
#define ECGTWIN_FACTORS "l"(left), "l"(right), "n"(transposed ? 1 : 0), "r"(add ? 1 : 0)
  static_assert(columns == 16 || columns == 32 || columns == 64);
  if constexpr (columns == 16)
    ECGTWIN_PRODUCT(16, "%11", "%8, %9, add, 1, 1, 0, %10", ECGTWIN_FACTORS);
  else if constexpr (columns == 32)
    ECGTWIN_PRODUCT(32, "%19", "%16, %17, add, 1, 1, 0, %18", ECGTWIN_FACTORS);
  else
    ECGTWIN_PRODUCT(64, "%35", "%32, %33, add, 1, 1, 0, %34", ECGTWIN_FACTORS);
#undef ECGTWIN_FACTORS
}

// Between other uses of the registers of products and the products.
__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Ends a group.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until all groups but the last `pending` are over.
template <int pending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// The compiler, which takes a sum for ready when its product has begun, does not use it before this.
template <int columns>
__device__ __forceinline__ void hold(float (*sum)[4]) {
#pragma unroll
  for (int n = 0; n < columns / 8; ++n) asm volatile("" : ECGTWIN_FOUR(n) : : "memory");
}
// Waits for the warps of a warpgroup.
__device__ __forceinline__ void meet_warpgroup() {
  asm volatile("bar.sync %0, 128;" ::"r"(1 + threadIdx.x / 128) : "memory");
}

#undef ECGTWIN_PRODUCT
#undef ECGTWIN_NAMES_64
#undef ECGTWIN_NAMES_32
#undef ECGTWIN_NAMES_16
#undef ECGTWIN_SUMS_64
#undef ECGTWIN_SUMS_32
#undef ECGTWIN_SUMS_16
#undef ECGTWIN_FOUR

#else

template <int columns, bool transposed>
void begin_product(float (*sum)[4], const uint32_t (&left)[4], uint64_t right, bool add) {
  emulation::issue_product(sum, left, {columns, transposed, false, add, 0, right});
}
template <int columns, bool transposed>
void begin_product(float (*sum)[4], uint64_t left, uint64_t right, bool add) {
  emulation::issue_product(sum, {}, {columns, transposed, true, add, left, right});
}
inline void fence_products() { emulation::fence_products(); }
inline void commit_products() { emulation::commit_products(); }
template <int pending>
void wait_products() {
  emulation::wait_products(pending);
}
template <int columns>
void hold(float (*)[4]) {}
inline void meet_warpgroup() { emulation::meet_warpgroup(); }

#endif

}  // namespace ecgtwin::cuda
