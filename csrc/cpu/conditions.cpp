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

// Elements of the results, packed in strips of `strip` rows. Known when compiled, for there are many of them to place.
template <class Value, int64_t strip, int64_t pack>
struct Packed {
  // Element (row, column) of a matrix of `columns` columns that begins at element `matrix`.
  static void put(void* elements, int64_t matrix, int64_t row, int64_t column, int64_t columns, float value) {
    const int64_t dword = (row / strip * (columns / pack) + column / pack) * strip + row % strip;
    store(static_cast<Value*>(elements) + matrix + dword * pack + column % pack, value);
  }
};

// Rows `row`.. of a head's keys with the query projection folded in: channels of the positions.
template <class To>
void put_keys(const ConditionArgs& a, const Tile& tile, int64_t block, int64_t head, int64_t row,
              const float (&keys)[T::rows][kTile]) {
  for (int64_t t = 0; t < tile.count; ++t) {
    const TokenPlace& place = a.places[tile.first + t];
    if (!place.keys) continue;
    const int64_t matrix = block * a.heads * place.tokens * a.width, token = head * place.tokens + place.index;
    for (int64_t i = 0; i < T::rows; ++i) To::put(place.keys, matrix, token, row + i, a.width, keys[i][t]);
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
                const float (&values)[T::rows][kTile]) {
  for (int64_t t = 0; t < tile.count; ++t) {
    const TokenPlace& place = a.places[tile.first + t];
    if (place.constant) {
      for (int64_t i = 0; i < T::rows; ++i) place.constant[block * a.width + row + i] += values[i][t];
      continue;
    }
    const int64_t columns = a.heads * place.tokens, column = head * place.tokens + place.index;
    const int64_t matrix = block * a.width * columns;
    for (int64_t i = 0; i < T::rows; ++i) To::put(place.values, matrix, row + i, column, columns, values[i][t]);
  }
}

// A head's keys or values through packed weights (width, head size): put(first row, rows) for each strip.
template <class Put>
void fold(const uint32_t* weights, const float* head, int64_t width, int64_t head_size, const Put& put) {
  product<T>(weights, reinterpret_cast<const uint32_t*>(head), width, head_size,
             [&](int64_t row, Block<T, T::rows>& sums) __attribute__((always_inline)) {
               alignas(64) float rows[T::rows][kTile];
               ECGTWIN_EACH(T::rows) store_aligned(rows[i] + j * kLanes, sums[i][j]);
               put(row, rows);
             });
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
    fold(a.query + matrix, keys, width, head_size, [&](int64_t row, const float(&folded)[T::rows][kTile]) {
      put_keys<To>(a, tile, block, head, row, folded);
    });
    put_scores(a, tile, block, head, keys);
    fold(a.output + matrix, values, width, head_size, [&](int64_t row, const float(&folded)[T::rows][kTile]) {
      put_values<To>(a, tile, block, head, row, folded);
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
  if (a.to.pack == Bfloat16::pack) return attend<Packed<BFloat16, Bfloat16::rows, Bfloat16::pack>>(a, task);
#endif
  attend<Packed<float, T::rows, 1>>(a, task);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
