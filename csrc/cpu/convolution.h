// Convolutions as products at the points of a fast convolution algorithm (Winograd, arXiv 1509.09308): a window of
// planes is transformed, multiplied at every point, and transformed back. Weights come transformed.
#pragma once

#if defined(__AVX2__)

#include "cpu/group_norm.h"
#include "cpu/product.h"
#include "decoder.h"

namespace ecgtwin::ECGTWIN_VARIANT {

constexpr int kAhead = 2048;  // so many dwords of weights further on are prefetched

// Each kind makes `outputs` planes of the window of `planes` planes and one before and one behind.

struct Pointwise {
  static constexpr int64_t points = 1, planes = 1, outputs = 1;
  ECGTWIN_INLINE void transform(const Vector (&x)[3], Vector (&d)[1]) { d[0] = x[1]; }
  ECGTWIN_INLINE void finish(const Vector (&m)[1], Vector (&y)[1]) { y[0] = m[0]; }
};

// Width 3: F(4,3) at the points 0, 3/4, -3/4, 3/2, -3/2 and infinity; 6 products instead of 12. These points round
// better than the usual 0, 1, -1, 2, -2: in bfloat16 the whole decoder's error is 1.4 times that of plain products
// instead of 1.8.
struct Convolution {
  static constexpr int64_t points = 6, planes = 4, outputs = 4;
  static constexpr float a = 0.75f, b = 1.5f, a2 = a * a, b2 = b * b;

  ECGTWIN_INLINE void transform(const Vector (&x)[6], Vector (&d)[6]) {
    const Vector even_a = multiply_add(x[2], broadcast(-b2), x[4]), odd_a = multiply_add(x[1], broadcast(-b2), x[3]);
    const Vector even_b = multiply_add(x[2], broadcast(-a2), x[4]), odd_b = multiply_add(x[1], broadcast(-a2), x[3]);
    d[0] = multiply_add(multiply_add(x[0], broadcast(a2), -x[2]), broadcast(b2), even_b);
    d[1] = multiply_add(odd_a, broadcast(a), even_a);
    d[2] = multiply_add(odd_a, broadcast(-a), even_a);
    d[3] = multiply_add(odd_b, broadcast(b), even_b);
    d[4] = multiply_add(odd_b, broadcast(-b), even_b);
    d[5] = multiply_add(odd_b, broadcast(-b2), multiply_add(x[3], broadcast(-a2), x[5]));
  }
  ECGTWIN_INLINE void finish(const Vector (&m)[6], Vector (&y)[4]) {
    const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = multiply_add(odd_a, broadcast(a), odd_b * broadcast(b));
    y[2] = multiply_add(even_a, broadcast(a2), even_b * broadcast(b2));
    y[3] = multiply_add(odd_a, broadcast(a2 * a), multiply_add(odd_b, broadcast(b2 * b), m[5]));
  }
};

// Width 3 after every position is doubled: (g0, g1 + g2) and (g0 + g1, g2) over a position and its neighbour, in three
// products instead of six.
struct Upsampling {
  static constexpr int64_t points = 3, planes = 1, outputs = 2;
  ECGTWIN_INLINE void transform(const Vector (&x)[3], Vector (&d)[3]) {
    d[0] = x[0] - x[1];
    d[1] = x[1];
    d[2] = x[2] - x[1];
  }
  ECGTWIN_INLINE void finish(const Vector (&m)[3], Vector (&y)[2]) {
    y[0] = m[0] + m[1];
    y[1] = m[1] + m[2];
  }
};

// Where a layer's activations of one record lie.
struct Rows {
  int64_t planes, lanes;
  int64_t size() const { return planes * lanes; }
};

// Adds what precedes the first plane and follows the last: each other's positions of a lane before or behind, and zeros
// at the ends of the record.
ECGTWIN_INLINE void add_neighbours(float* planes, Rows rows) {
  float *before = planes - rows.lanes, *behind = planes + rows.size();
  for (int64_t lane = 0; lane < rows.lanes; lane += kLanes) {
    store_aligned(before + lane, load_unaligned(behind - rows.lanes + lane - 1));
    store_aligned(behind + lane, load_unaligned(planes + lane + 1));
  }
  before[0] = 0.0f;
  behind[rows.lanes - 1] = 0.0f;
}

// Channels `channel` and channel + 1 of all tiles' panels, from their planes at `first` and `second`.
template <class T, class Kind>
ECGTWIN_NOINLINE void pack_channels(const float* first, const float* second, Rows rows, int64_t channel, int64_t pairs,
                                    uint32_t* panels) {
  constexpr int64_t window = Kind::planes + 2;
  for (int64_t plane = 0; plane < rows.planes; plane += Kind::planes)
    for (int64_t lane = 0; lane < rows.lanes; lane += kLanes) {
      const int64_t tile = (plane / Kind::planes * rows.lanes + lane) / T::tile;
      uint32_t* place = panels + (tile * Kind::points * pairs + channel / T::pack) * T::tile + lane % T::tile;
      Vector points[2][Kind::points];
      ECGTWIN_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float* source = (i ? second : first) + (plane - 1) * rows.lanes + lane;
        Vector x[window];
        ECGTWIN_UNROLL
        for (int p = 0; p < window; ++p) x[p] = load_aligned(source + p * rows.lanes);
        Kind::transform(x, points[i]);
      }
      ECGTWIN_UNROLL
      for (int p = 0; p < Kind::points; ++p, place += pairs * T::tile) {
#if defined(__AVX512BF16__)
        if constexpr (!T::exact) {
          _mm512_store_si512(place, interleave(points[0][p], points[1][p]));
          continue;
        }
#endif
        store_aligned(reinterpret_cast<float*>(place), points[0][p]);
        store_aligned(reinterpret_cast<float*>(place) + T::tile, points[1][p]);
      }
    }
}

// The products of one block of rows, `count` of them, with the panels of `tiles` tiles: [tile][point][row][T::tile].
template <class T, class Kind>
ECGTWIN_NOINLINE void block_products(const uint32_t* weights, const uint32_t* panels, int64_t count, int64_t pairs,
                                     int64_t tiles, float* products) {
  for (int64_t point = 0; point < Kind::points; ++point)
    for (int64_t begin = 0; begin < pairs; begin += kChunk) {
      const int64_t chunk = pairs - begin < kChunk ? pairs - begin : kChunk;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const uint32_t* panel = panels + ((tile * Kind::points + point) * pairs + begin) * T::tile;
        float* out = products + (tile * Kind::points + point) * kBlockRows * T::tile;
        for (int64_t row = 0; row < count; row += T::rows, out += T::rows * T::tile)
          multiply<T, kAhead>(weights + row * chunk, 1, T::rows, panel, chunk,
                              [&](Block<T, T::rows>& block) __attribute__((always_inline)) {
                                ECGTWIN_EACH(T::rows) {
                                  float* place = out + i * T::tile + j * kLanes;
                                  store_aligned(place, begin ? load_aligned(place) + block[i][j] : block[i][j]);
                                }
                              });
      }
      weights += count * chunk;
    }
}

// A block's rows of one tile from their products, to (or added to) planes `lanes` apart in rows `stride` apart.
template <class T, class Kind, bool accumulate>
ECGTWIN_NOINLINE void finish_tile(const float* products, int64_t count, const float* bias, float* out, int64_t stride,
                                  int64_t lanes) {
  for (int64_t row = 0; row < count; ++row)
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) {
      Vector m[Kind::points], y[Kind::outputs];
      ECGTWIN_UNROLL
      for (int p = 0; p < Kind::points; ++p)
        m[p] = load_aligned(products + (p * kBlockRows + row) * T::tile + j * kLanes);
      Kind::finish(m, y);
      ECGTWIN_UNROLL
      for (int p = 0; p < Kind::outputs; ++p) {
        float* place = out + row * stride + p * lanes + j * kLanes;
        const Vector value = y[p] + broadcast(bias[row]);
        store_aligned(place, accumulate ? load_aligned(place) + value : value);
      }
    }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
