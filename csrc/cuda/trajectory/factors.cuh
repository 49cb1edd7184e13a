// Factors of products in shared memory: matrices of 8 x 8 elements in 128 bytes each. The instructions of a warp and of
// a warpgroup both read them so, and without conflicts between banks.
#pragma once

#include "bulk_copy.cuh"
#include "tile.cuh"

namespace ecgtwin::cuda {

constexpr int kCore = 64;  // elements of such a matrix

// `deeper` and `further` are elements to the matrix 8 deeper, and to that 8 rows of a left or columns of a right factor
// further; what is 16 deeper lies `next_depth` on. Within a matrix depth runs fastest, or, `transposed`, slowest.
template <int deeper, int further, bool transposed = false, int next_depth = 2 * deeper>
struct Factor {
  const BFloat16* data;
  // Both are multiples of 16.
  __device__ __forceinline__ Factor at(int depth, int row) const {
    return {data + depth / 16 * next_depth + row / 8 * further};
  }
};

// Of the weights, so many columns that follow one another before what is 16 deeper: each 16 x 16 elements are together.
template <int columns>
using WeightFactor = Factor<kCore, 2 * kCore, false, 16 * columns>;

// Rows of `columns` elements, eight rows after eight.
template <int columns>
struct Panel {
  static constexpr int eight_rows = 8 * columns;
  BFloat16* data;

  __device__ __forceinline__ Panel from_row(int row) const { return {data + row / 8 * eight_rows}; }
  __device__ __forceinline__ Panel from_column(int column) const { return {data + column / 8 * kCore}; }
  // As a left factor, or the transpose as a right one.
  __device__ __forceinline__ Factor<kCore, eight_rows> by_rows() const { return {data}; }
  // As a right factor.
  __device__ __forceinline__ Factor<eight_rows, kCore, true> by_columns() const { return {data}; }
};

// The lane's place in a warp's 16 rows of a sum that becomes rows of a panel.
template <int columns>
class PlaceInPanel {
 public:
  __device__ __forceinline__ explicit PlaceInPanel(Panel<columns> rows)
      : own_(rows.data + place_of_lane().row * 8 + place_of_lane().column) {}
  // Elements 2 half and the next of the sum's columns 8 n to 8 n + 7, rounded.
  __device__ __forceinline__ void store(int n, int half, uint32_t pair) const {
    store_shared(own_ + n * kCore + half * Panel<columns>::eight_rows, pair);
  }

 private:
  BFloat16* own_;
};

}  // namespace ecgtwin::cuda
