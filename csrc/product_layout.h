// How matrices lie in memory for the CPU's matrix products, by instruction set and precision: one table that packing
// and kernels share.
//
// A dword holds one float32, or two bfloat16 of neighbouring channels. Weights (N, K) are packed in strips of `rows`
// rows as [N / rows][K / pack][rows] dwords; activations are panels [K / pack][tile] dwords, `tile` positions side by side.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ecgtwin {

struct ProductLayout {
  int64_t rows, pack, tile;  // rows 0: this level has no kernels for the precision
};

constexpr ProductLayout product_layout(CpuLevel level, bool bfloat16) {
  if (bfloat16) return level == CpuLevel::avx512bf16 ? ProductLayout{4, 2, 64} : ProductLayout{0, 0, 0};
  if (level >= CpuLevel::avx512) return {8, 1, 32};
  if (level == CpuLevel::avx2) return {4, 1, 16};
  return {0, 0, 0};
}

// The same for products with few positions or of few positions at a time: no tile is wider than 32.
constexpr ProductLayout narrow_layout(CpuLevel level, bool bfloat16) {
  const ProductLayout layout = product_layout(level, bfloat16);
  return layout.tile > 32 ? ProductLayout{8, 2, 32} : layout;
}

}  // namespace ecgtwin
