// Tiles of matrices in shared memory, and products of them by warps of 16 rows. bfloat16 multiplies by matrix
// instructions; float32 and float64 by fused multiply-adds, with the sums laid out over the lanes in the same way.
#pragma once

#include "matrix.cuh"

namespace ecgtwin::cuda {

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // elements of one wide load

// Elements from one row of a tile to the next: rows 16 bytes apart in banks, so that eight of them are read at once.
template <typename T, int columns>
constexpr int kStride = columns + kVector<T>;

template <typename T>
struct alignas(16) Vector {
  T at[kVector<T>];
};

template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* place) {
  return *reinterpret_cast<const Vector<T>*>(place);
}

__device__ __forceinline__ bool aligned(const void* place) { return reinterpret_cast<uintptr_t>(place) % 16 == 0; }

// Rows of device memory, `columns` elements of each.
template <typename T>
struct Rows {
  T* data;
  int64_t stride, count;
  int columns;
};

// The block copies `rows` rows from `first` on into a tile of `width` columns, with zeros beyond the matrix.
template <int rows, int width, int threads, typename T>
__device__ __forceinline__ void load_tile(const Rows<T>& from, int64_t first, T* tile) {
  constexpr int chunks = width / kVector<T>;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += threads) {
    const int row = i / chunks, column = i % chunks * kVector<T>;
    const T* source = from.data + (first + row) * from.stride + column;
    const int present = first + row < from.count ? from.columns - column : 0;
    Vector<T> value{};
    if (present >= kVector<T> && aligned(source)) {
      value = load_vector(source);
    } else {
#pragma unroll
      for (int j = 0; j < kVector<T>; ++j)
        if (j < present) value.at[j] = source[j];
    }
    *reinterpret_cast<Vector<T>*>(tile + row * kStride<T, width> + column) = value;
  }
}

// The inverse: what lies inside the matrix goes back to it.
template <int rows, int width, int threads, typename T>
__device__ __forceinline__ void store_tile(const T* tile, const Rows<T>& to, int64_t first) {
  constexpr int chunks = width / kVector<T>;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += threads) {
    const int row = i / chunks, column = i % chunks * kVector<T>;
    T* target = to.data + (first + row) * to.stride + column;
    const int present = first + row < to.count ? to.columns - column : 0;
    const Vector<T> value = load_vector(tile + row * kStride<T, width> + column);
    if (present >= kVector<T> && aligned(target)) {
      *reinterpret_cast<Vector<T>*>(target) = value;
    } else {
#pragma unroll
      for (int j = 0; j < kVector<T>; ++j)
        if (j < present) target[j] = value.at[j];
    }
  }
}

// Which part of 16 rows by 8 columns of a sum a lane holds: elements 0, 1 at (row, column) and the next column,
// elements 2, 3 eight rows below.
struct Place {
  int row, column;
};
__device__ __forceinline__ Place place_of_lane() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return {lane / 4, lane % 4 * 2};
}

template <typename C, int columns>
using Sum = C[columns / 8][4];

// The sum or the maximum over the four lanes that share a row.
template <typename C>
__device__ __forceinline__ C row_sum(C value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}
template <typename C>
__device__ __forceinline__ C row_maximum(C value) {
  C other = __shfl_xor_sync(0xffffffffu, value, 1);
  value = other > value ? other : value;
  other = __shfl_xor_sync(0xffffffffu, value, 2);
  return other > value ? other : value;
}

// A sum, rounded to T, as 16 rows of a tile.
template <int columns, typename T, typename C>
__device__ __forceinline__ void store_sum(const Sum<C, columns>& sum, T* rows, int stride) {
  const Place at = place_of_lane();
#pragma unroll
  for (int n = 0; n < columns / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) store(rows + (at.row + i / 2 * 8) * stride + 8 * n + at.column + i % 2, sum[n][i]);
}

template <typename T>
struct Products;

template <>
struct Products<BFloat16> {
  // Room that a warp needs to multiply a sum of so many columns.
  template <int columns>
  static constexpr int room = 0;

  // sum += a (16 rows of `depth`) times the transpose of b (`columns` rows of `depth`), both in tiles.
  template <int depth, int columns>
  __device__ __forceinline__ static void rows_by_rows(const BFloat16* a, const BFloat16* b, Sum<float, columns>& sum) {
    constexpr int stride = kStride<BFloat16, depth>;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    a += lane % 16 * stride + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < depth; k += 16) {
      uint32_t left[4];
      load_matrices<false>(left, a + k);
#pragma unroll
      for (int n = 0; n < columns / 8; n += 2) {
        uint32_t right[4];
        load_matrices<false>(right, b + 8 * n * stride + k);
        multiply_add(sum[n], left, right[0], right[1]);
        multiply_add(sum[n + 1], left, right[2], right[3]);
      }
    }
  }

  // sum += a (16 rows of `depth`, a sum rounded to bfloat16) times b (`depth` rows of `columns`, a tile).
  template <int depth, int columns>
  __device__ __forceinline__ static void sum_by_matrix(const Sum<float, depth>& a, const BFloat16* b, BFloat16*,
                                                       Sum<float, columns>& sum) {
    constexpr int stride = kStride<BFloat16, columns>;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    b += lane % 16 * stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < depth / 8; k += 2) {
      const uint32_t left[4] = {packed(a[k][0], a[k][1]), packed(a[k][2], a[k][3]), packed(a[k + 1][0], a[k + 1][1]),
                                packed(a[k + 1][2], a[k + 1][3])};
#pragma unroll
      for (int n = 0; n < columns / 8; n += 2) {
        uint32_t right[4];
        load_matrices<true>(right, b + 8 * k * stride + 8 * n);
        multiply_add(sum[n], left, right[0], right[1]);
        multiply_add(sum[n + 1], left, right[2], right[3]);
      }
    }
  }
};

// T is its own compute type.
template <typename T>
struct Products {
  template <int columns>
  static constexpr int room = 16 * kStride<T, columns>;

  template <int depth, int columns>
  __device__ __forceinline__ static void rows_by_rows(const T* a, const T* b, Sum<T, columns>& sum) {
    constexpr int stride = kStride<T, depth>;
    const Place at = place_of_lane();
    a += at.row * stride;
    b += at.column * stride;
#pragma unroll 1
    for (int k = 0; k < depth; k += kVector<T>) {
      const Vector<T> upper = load_vector(a + k), lower = load_vector(a + 8 * stride + k);
#pragma unroll
      for (int n = 0; n < columns / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const Vector<T> right = load_vector(b + (8 * n + i) * stride + k);
#pragma unroll
          for (int j = 0; j < kVector<T>; ++j) {
            sum[n][i] += upper.at[j] * right.at[j];
            sum[n][2 + i] += lower.at[j] * right.at[j];
          }
        }
    }
  }

  // The lanes of a row need all of `a`: it goes through the warp's room. What one tile adds is summed by itself first:
  // a thousand products added to one sum would round a thousand times.
  template <int depth, int columns>
  __device__ __forceinline__ static void sum_by_matrix(const Sum<T, depth>& a, const T* b, T* room,
                                                       Sum<T, columns>& sum) {
    constexpr int left_stride = kStride<T, depth>, stride = kStride<T, columns>;
    constexpr int tiles = kVector<T>;  // of 8 columns at a time
    const Place at = place_of_lane();
    store_sum<depth>(a, room, left_stride);
    __syncwarp();
    const T* left = room + at.row * left_stride;
    b += at.column;
#pragma unroll
    for (int first = 0; first < columns / 8; first += tiles) {
      Sum<T, 8 * tiles> part = {};
#pragma unroll 1
      for (int k = 0; k < depth; k += kVector<T>) {
        const Vector<T> upper = load_vector(left + k), lower = load_vector(left + 8 * left_stride + k);
#pragma unroll
        for (int j = 0; j < kVector<T>; ++j)
#pragma unroll
          for (int n = 0; n < tiles; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const T right = b[(k + j) * stride + 8 * (first + n) + i];
              part[n][i] += upper.at[j] * right;
              part[n][2 + i] += lower.at[j] * right;
            }
      }
#pragma unroll
      for (int n = 0; n < tiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[first + n][i] += part[n][i];
    }
    __syncwarp();
  }
};

}  // namespace ecgtwin::cuda
