// One head's rows between tensors and the operands of products (see product.h): padded, paired and transposed.
#pragma once

#include "team.h"

#if defined(__AVX2__)

#include "cpu/attention.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// `present` rows of `size` elements to rows of `channels` / pack dwords; the rest of them, and of `count` rows, zero.
template <typename S, int64_t pack>
ECGTWIN_NOINLINE void read_rows(const S* from, int64_t stride, int64_t present, int64_t count, int64_t size,
                                int64_t channels, uint32_t* to) {
  const int64_t words = channels / pack;
  for (int64_t row = 0; row < count; ++row, from += stride, to += words) {
    const int64_t given = row < present ? size : 0;
    if constexpr (pack == 2) {
      uint16_t* elements = reinterpret_cast<uint16_t*>(to);
      for (int64_t c = 0; c < given; ++c) elements[c] = from[c].bits;
      for (int64_t c = given; c < channels; ++c) elements[c] = 0;
    } else {
      float* elements = reinterpret_cast<float*>(to);
      for (int64_t c = 0; c < given; ++c) elements[c] = load(from[c]);
      for (int64_t c = given; c < channels; ++c) elements[c] = 0;
    }
  }
}

// `count` rows of `channels` / pack dwords to rows of `size` elements.
template <typename S, int64_t pack>
ECGTWIN_NOINLINE void write_rows(const uint32_t* from, int64_t channels, S* to, int64_t stride, int64_t count,
                                 int64_t size) {
  for (int64_t row = 0; row < count; ++row, from += channels / pack, to += stride) {
    if constexpr (pack == 2) {
      const uint16_t* elements = reinterpret_cast<const uint16_t*>(from);
      for (int64_t c = 0; c < size; ++c) to[c].bits = elements[c];
    } else {
      const float* elements = reinterpret_cast<const float*>(from);
      for (int64_t c = 0; c < size; ++c) store(to + c, elements[c]);
    }
  }
}

template <typename S>
ECGTWIN_NOINLINE void write_floats(const float* from, int64_t channels, S* to, int64_t stride, int64_t count,
                                   int64_t size) {
  for (int64_t row = 0; row < count; ++row, from += channels, to += stride)
    for (int64_t c = 0; c < size; ++c) store(to + c, from[c]);
}

// to[column][row] = from[row][column], strides in dwords.
ECGTWIN_NOINLINE void transpose(const uint32_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint32_t* to,
                                int64_t to_stride) {
  alignas(64) int32_t offsets[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) offsets[i] = static_cast<int32_t>(i * from_stride);
  int64_t row = 0;
  for (; row + kLanes <= rows; row += kLanes)
    for (int64_t column = 0; column < columns; ++column) {
      const uint32_t* first = from + row * from_stride + column;
      uint32_t* target = to + column * to_stride + row;
#if defined(__AVX512F__)
      _mm512_storeu_si512(target, _mm512_i32gather_epi32(_mm512_load_si512(offsets), first, 4));
#else
      const __m256i index = _mm256_load_si256(reinterpret_cast<const __m256i*>(offsets));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                          _mm256_i32gather_epi32(reinterpret_cast<const int*>(first), index, 4));
#endif
    }
  const uint32_t* rest = from + row * from_stride;
  for (int64_t i = 0; i < rows - row; ++i)
    for (int64_t column = 0; column < columns; ++column) to[column * to_stride + row + i] = rest[i * from_stride + column];
}

// Rows [rows][channels / pack] to dwords [rows / pack][channels] that hold the elements of `pack` rows: of channels
// first .. last, dword `first` of pair k going to to[k * stride].
template <int64_t pack>
ECGTWIN_INLINE void pair_columns(const uint32_t* from, int64_t rows, int64_t channels, int64_t first, int64_t last,
                                 uint32_t* to, int64_t stride) {
  for (int64_t row = 0; row < rows; row += pack, to += stride) {
    if constexpr (pack == 2) {
      const uint16_t* even = reinterpret_cast<const uint16_t*>(from + row * (channels / 2));
      const uint16_t* odd = even + channels;
      for (int64_t c = first; c < last; ++c) to[c - first] = even[c] | static_cast<uint32_t>(odd[c]) << 16;
    } else {
      for (int64_t c = first; c < last; ++c) to[c - first] = from[row * channels + c];
    }
  }
}

template <int64_t pack>
ECGTWIN_NOINLINE void pair_rows(const uint32_t* from, int64_t rows, int64_t channels, uint32_t* to) {
  pair_columns<pack>(from, rows, channels, 0, channels, to, channels);
}

// The same in tiles of channels, [channels / tile][rows / pack][tile].
template <int64_t pack, int64_t tile>
ECGTWIN_NOINLINE void pair_tiles(const uint32_t* from, int64_t rows, int64_t channels, uint32_t* to) {
  for (int64_t first = 0; first < channels; first += tile, to += rows / pack * tile)
    pair_columns<pack>(from, rows, channels, first, first + tile, to, tile);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
