// Right factors in device memory as the lanes of a warp take them, for products that each warp does for itself.
#pragma once

#include "tile.cuh"

namespace ecgtwin::cuda {

// 16 x 16 elements of the right factor b of a product: b0, b1 of columns 0..7, then of 8..15.
struct Tile {
  Vector<uint32_t> of_lane[kWarp];
};

// sum (16 x 16) += a (16 x 16) times a tile.
__device__ __forceinline__ void multiply_add(float (&left)[4], float (&right)[4], const uint32_t (&a)[4],
                                             const Tile& tile) {
  const Vector<uint32_t> b = tile.of_lane[threadIdx.x % kWarp];
  multiply_add(left, a, b.at[0], b.at[1]);
  multiply_add(right, a, b.at[2], b.at[3]);
}

}  // namespace ecgtwin::cuda
