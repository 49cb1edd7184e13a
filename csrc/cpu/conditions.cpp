// CPU kernels that prepare the tokens of conditions for cross-attention.
#include "conditions.h"

#if defined(__AVX2__)

#include "cpu/tile_norm.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

using T = Float32;
constexpr int64_t kTile = T::tile;

struct Tile {
  int64_t first, count;
};

Tile tile_of(const ConditionArgs& a, int64_t tile) {
  const int64_t first = tile * kTile, rest = a.tokens - first;
  return {first, rest < kTile ? rest : kTile};
}

// What the results consist of, packed in strips of `strip` rows. Known when compiled, for there are many to place.
struct ToFloat32 {
  using Element = float;
  static constexpr int64_t strip = T::rows, pack = 1;
  ECGTWIN_INLINE void convert(const Vector (&row)[T::vectors], float* out) {
    ECGTWIN_UNROLL for (int j = 0; j < T::vectors; ++j) store_aligned(out + j * kLanes, row[j]);
  }
};

#if defined(__AVX512BF16__)
struct ToBfloat16 {
  using Element = uint16_t;
  static constexpr int64_t strip = Bfloat16::rows, pack = Bfloat16::pack;
  ECGTWIN_INLINE void convert(const Vector (&row)[T::vectors], uint16_t* out) {
    static_assert(T::vectors == 2);
    _mm512_store_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(row[1], row[0])));
  }
};
#endif

// Place of element (row, column) in a packed matrix of `columns` columns.
template <class To>
ECGTWIN_INLINE int64_t place_of(int64_t row, int64_t column, int64_t columns) {
  const int64_t dword = (row / To::strip * (columns / To::pack) + column / To::pack) * To::strip + row % To::strip;
  return dword * To::pack + column % To::pack;
}

template <class To>
using Rows = typename To::Element[T::rows][kTile];

// Rows `row`.. of a head's keys with the query projection folded in: channels of the positions.
template <class To>
void put_keys(const ConditionArgs& a, const Tile& tile, int64_t block, int64_t head, int64_t row, const Rows<To>& keys) {
  for (int64_t t = 0; t < tile.count; ++t) {
    const TokenPlace& place = a.places[tile.first + t];
    if (!place.keys) continue;
    const int64_t token = head * place.tokens + place.index;
    auto* matrix = static_cast<typename To::Element*>(place.keys) + block * a.heads * place.tokens * a.width;
    for (int64_t i = 0; i < T::rows; ++i) matrix[place_of<To>(token, row + i, a.width)] = keys[i][t];
  }
}

// What of a head's scores does not depend on the positions; keys (channel of the head, token).
void put_scores(const ConditionArgs& a, const Tile& tile, int64_t block, int64_t head, const float* keys) {
  const int64_t head_size = a.width / a.heads, first = block * a.width + head * head_size;
  for (int64_t t = 0; t < tile.count; ++t) {
    const TokenPlace& place = a.places[tile.first + t];
    if (!place.keys) continue;
    float offset = 0, bias = a.score_bias[tile.first + t];
    for (int64_t c = 0; c < head_size; ++c) {
      offset += a.query_offset[first + c] * keys[c * kTile + t];
      bias += a.query_shift[first + c] * keys[c * kTile + t];
    }
    const int64_t rows = a.heads * place.tokens, token = head * place.tokens + place.index;
    place.scores[block * 2 * rows + token] = offset;
    place.scores[(block * 2 + 1) * rows + token] = bias;
  }
}

// Rows `row`.. of a head's projected values.
template <class To>
void put_values(const ConditionArgs& a, const Tile& tile, int64_t block, int64_t head, int64_t row,
                const Rows<To>& values) {
  for (int64_t t = 0; t < tile.count; ++t) {
    const TokenPlace& place = a.places[tile.first + t];
    if (!place.values) continue;
    const int64_t columns = a.heads * place.tokens, column = head * place.tokens + place.index;
    auto* matrix = static_cast<typename To::Element*>(place.values) + block * a.width * columns;
    for (int64_t i = 0; i < T::rows; ++i) matrix[place_of<To>(row + i, column, columns)] = values[i][t];
  }
}

// To a token that is alone every position attends wholly: the sum of its heads' values is the result.
void add_constant(const ConditionArgs& a, const Tile& tile, int64_t block, int64_t row, const Rows<ToFloat32>& values) {
  for (int64_t t = 0; t < tile.count; ++t)
    if (float* constant = a.places[tile.first + t].constant)
      for (int64_t i = 0; i < T::rows; ++i) constant[block * a.width + row + i] += values[i][t];
}

// A head's keys or values through packed weights (width, head size): put(first row, block) for each strip.
template <class Put>
ECGTWIN_INLINE void fold(const uint32_t* weights, const float* head, int64_t width, int64_t head_size, const Put& put) {
  product<T>(weights, reinterpret_cast<const uint32_t*>(head), width, head_size,
             [&](int64_t row, Block<T, T::rows>& sums) __attribute__((always_inline)) { put(row, sums); });
}

template <class To>
ECGTWIN_INLINE void convert(const Block<T, T::rows>& sums, Rows<To>& rows) {
  ECGTWIN_UNROLL for (int i = 0; i < T::rows; ++i) To::convert(sums[i], rows[i]);
}

template <class To>
void attend(const ConditionArgs& a, int64_t task) {
  const int64_t block = task % a.depth, width = a.width, head_size = width / a.heads;
  const Tile tile = tile_of(a, task / a.depth);
  const uint32_t* tokens = reinterpret_cast<const uint32_t*>(a.panels + task / a.depth * width * kTile);
  float* both[2] = {a.scratch, a.scratch + width * kTile};
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t which = block * 2 + i;
    linear<T, false>(a.both + which * width * width, tokens, width, width, a.both_bias + which * width, both[i], kTile);
    if (a.norm_scale)
      layer_norm<T, Affine::scale_shift>(both[i], width, a.norm_scale + which * width, a.norm_shift + which * width,
                                         1e-5f, reinterpret_cast<uint32_t*>(both[i]));
  }
  for (int64_t t = 0; t < tile.count; ++t)
    if (float* constant = a.places[tile.first + t].constant)
      memcpy(constant + block * width, a.output_bias + block * width, sizeof(float) * width);
  for (int64_t head = 0; head < a.heads; ++head) {
    const int64_t matrix = (block * a.heads + head) * width * head_size;
    const float *keys = both[0] + head * head_size * kTile, *values = both[1] + head * head_size * kTile;
    fold(a.query + matrix, keys, width, head_size, [&](int64_t row, const Block<T, T::rows>& sums) {
      alignas(64) Rows<To> rows;
      convert<To>(sums, rows);
      put_keys<To>(a, tile, block, head, row, rows);
    });
    put_scores(a, tile, block, head, keys);
    fold(a.output + matrix, values, width, head_size, [&](int64_t row, const Block<T, T::rows>& sums) {
      alignas(64) Rows<To> rows;
      convert<To>(sums, rows);
      put_values<To>(a, tile, block, head, row, rows);
      alignas(64) Rows<ToFloat32> exact;
      convert<ToFloat32>(sums, exact);
      add_constant(a, tile, block, row, exact);
    });
  }
}

}  // namespace

void project_tokens(const ConditionArgs& a, int64_t task) {
  const Tile tile = tile_of(a, task);
  const int64_t features = (a.features + 1) / 2 * 2;
  float* input = a.scratch;
  memset(input, 0, sizeof(float) * features * kTile);
  for (int64_t t = 0; t < tile.count; ++t)
    for (int64_t f = 0; f < a.features; ++f) input[f * kTile + t] = a.input[(tile.first + t) * a.features + f];
  float* tokens = a.panels + task * a.width * kTile;
  linear<T, false>(a.projection, reinterpret_cast<const uint32_t*>(input), a.width, features, a.projection_bias, tokens,
                   kTile);
  if (a.positions)
    for (int64_t t = 0; t < tile.count; ++t)
      for (int64_t c = 0; c < a.width; ++c) tokens[c * kTile + t] += a.positions[(tile.first + t) * a.width + c];
  layer_norm<T, Affine::none>(tokens, a.width, nullptr, nullptr, a.eps, reinterpret_cast<uint32_t*>(tokens));
}

void attend_tokens(const ConditionArgs& a, int64_t task) {
#if defined(__AVX512BF16__)
  if (a.to.pack == Bfloat16::pack) return attend<ToBfloat16>(a, task);
#endif
  attend<ToFloat32>(a, task);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
