// Attention of one tile of query positions. Scores stay in the L1 cache; the softmax runs down the keys, lane by lane.
// Queries come scaled by log2(e) / sqrt(head size), so that the exponential is a power of two.
#pragma once

#if defined(__AVX2__)

#include "cpu/product.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// Keys that a sum takes one by one. Of more keys the sums of so many are added: rounding grows with the longest chain.
constexpr int64_t kKeysAtOnce = 128;

// Scores [count][tile] of keys against a panel of queries, key i of pair k being at keys[i + k * step]; their largest by
// position goes to `largest`.
template <class T>
ECGTWIN_NOINLINE void attention_scores(const uint32_t* keys, int64_t count, int64_t step, const uint32_t* queries,
                                       int64_t pairs, float* scores, Vector* largest) {
  Vector top[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) top[j] = broadcast(-3e38f);
  for (int64_t key = 0; key < count; key += T::rows)
    multiply<T, 0>(keys + key, 1, step, queries, pairs, [&](Block<T, T::rows>& block) __attribute__((always_inline)) {
      ECGTWIN_EACH(T::rows) {
        top[j] = maximum(top[j], block[i][j]);
        store_aligned(scores + (key + i) * T::tile + j * kLanes, block[i][j]);
      }
    });
  for (int j = 0; j < T::vectors; ++j) largest[j] = top[j];
}

// Turns scores into the panel of their exponentials, in place; the reciprocal of their sum goes to `inverse`.
template <class T>
ECGTWIN_NOINLINE void exponentials(float* scores, int64_t count, const Vector* largest, Vector* inverse) {
  Vector top[T::vectors], sum[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) top[j] = largest[j], sum[j] = zero();
  for (int64_t first = 0; first < count; first += kKeysAtOnce) {
    Vector part[T::vectors];
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) part[j] = zero();
    for (int64_t key = first; key < count && key < first + kKeysAtOnce; key += 2) {
      Block<T, 2> value;
      ECGTWIN_EACH(2) {
        value[i][j] = exp2<T::exact>(load_aligned(scores + (key + i) * T::tile + j * kLanes) - top[j]);
        part[j] += value[i][j];
      }
      store_panel<T, 2>(reinterpret_cast<uint32_t*>(scores), T::tile, key, value);
    }
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) sum[j] += part[j];
  }
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) inverse[j] = broadcast(1.0f) / sum[j];
}

// Values [channel][length] times the panel of exponentials times `inverse`, as a panel.
template <class T>
ECGTWIN_NOINLINE void attended_values(const uint32_t* values, int64_t channels, int64_t length, const uint32_t* weights,
                                      const Vector* inverse, uint32_t* out) {
  Vector factor[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) factor[j] = inverse[j];
  const int64_t pairs = length / T::pack;
  for (int64_t channel = 0; channel < channels; channel += T::rows)
    multiply<T, 0>(values + channel * pairs, pairs, 1, weights, pairs,
                   [&](Block<T, T::rows>& block) __attribute__((always_inline)) {
                     ECGTWIN_EACH(T::rows) block[i][j] = block[i][j] * factor[j];
                     store_panel<T, T::rows>(out, T::tile, channel, block);
                   });
}

// Self-attention of one tile: `queries`, a panel of heads x head_size channels, is overwritten by what it attends to.
// keys: pairs [channels / pack][length]; values: elements [channels][length]. scores: room for [length][tile] floats.
template <class T>
ECGTWIN_INLINE void self_attention(const uint32_t* keys, const uint32_t* values, int64_t length, int64_t heads,
                                   int64_t head_size, float* scores, uint32_t* queries) {
  const int64_t pairs = head_size / T::pack;
  for (int64_t head = 0; head < heads; ++head) {
    Vector largest[T::vectors], inverse[T::vectors];
    uint32_t* own = queries + head * pairs * T::tile;
    attention_scores<T>(keys + head * pairs * length, length, length, own, pairs, scores, largest);
    exponentials<T>(scores, length, largest, inverse);
    attended_values<T>(values + head * head_size * (length / T::pack), head_size, length,
                       reinterpret_cast<const uint32_t*>(scores), inverse, own);
  }
}

// The keys of `tokens` statements, for all heads one after the other. The score of a row is (keys x panel + offset) factor
// + bias; keys are packed, the factor is by position, offset and bias are by row.
struct TokenKeys {
  const uint32_t* keys;
  const float *offset, *bias;
  int64_t tokens;
};

// One head's exponentials [tokens][tile] of one tile, and the reciprocal of their sum by position.
template <class T>
ECGTWIN_INLINE void token_exponentials(const TokenKeys& k, int64_t head, const uint32_t* panel, int64_t pairs,
                                       const Vector* factor, float* out, Vector (&inverse)[T::vectors]) {
  const float *offset = k.offset + head * k.tokens, *bias = k.bias + head * k.tokens;
  Vector largest[T::vectors], sum[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) largest[j] = broadcast(-3e38f), sum[j] = zero();
  product<T>(k.keys + head * k.tokens * pairs, panel, k.tokens, pairs,
             [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
               ECGTWIN_EACH(T::rows) {
                 const Vector score =
                     multiply_add(block[i][j] + broadcast(offset[row + i]), factor[j], broadcast(bias[row + i]));
                 largest[j] = maximum(largest[j], score);
                 store_aligned(out + (row + i) * T::tile + j * kLanes, score);
               }
             });
  for (int64_t token = 0; token < k.tokens; ++token)
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) {
      float* place = out + token * T::tile + j * kLanes;
      const Vector value = exp2<T::exact>(load_aligned(place) - largest[j]);
      sum[j] += value;
      store_aligned(place, value);
    }
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) inverse[j] = broadcast(1.0f) / sum[j];
}

// Attention weights of one tile as a panel of heads x tokens rows. scores: room for [tokens][tile].
template <class T>
ECGTWIN_NOINLINE void token_attention(const TokenKeys& k, int64_t heads, const uint32_t* panel, int64_t pairs,
                                      const Vector* factor, float* scores, uint32_t* weights) {
  for (int64_t head = 0; head < heads; ++head) {
    Vector inverse[T::vectors];
    token_exponentials<T>(k, head, panel, pairs, factor, scores, inverse);
    for (int64_t token = 0; token < k.tokens; token += 2) {
      Block<T, 2> value;
      ECGTWIN_EACH(2) value[i][j] = load_aligned(scores + (token + i) * T::tile + j * kLanes) * inverse[j];
      store_panel<T, 2>(weights, T::tile, head * k.tokens + token, value);
    }
  }
}

// The same as floats, [heads x tokens][tile].
template <class T>
ECGTWIN_NOINLINE void token_weights(const TokenKeys& k, int64_t heads, const uint32_t* panel, int64_t pairs,
                                    const Vector* factor, float* weights) {
  for (int64_t head = 0; head < heads; ++head, weights += k.tokens * T::tile) {
    Vector inverse[T::vectors];
    token_exponentials<T>(k, head, panel, pairs, factor, weights, inverse);
    for (int64_t token = 0; token < k.tokens; ++token)
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) {
        float* place = weights + token * T::tile + j * kLanes;
        store_aligned(place, load_aligned(place) * inverse[j]);
      }
  }
}

// Floats [heads x tokens][tile] as a panel.
template <class T>
ECGTWIN_NOINLINE void pack_weights(const float* weights, int64_t rows, uint32_t* panel) {
  for (int64_t row = 0; row < rows; row += 2) {
    Block<T, 2> value;
    ECGTWIN_EACH(2) value[i][j] = load_aligned(weights + (row + i) * T::tile + j * kLanes);
    store_panel<T, 2>(panel, T::tile, row, value);
  }
}

// Whose attention an edit takes for its first `shared` tokens: floats of the source's heads x tokens; where `rescale`,
// scaled by position to a sum of 1. Without any (tokens 0), the source attends to its one token alone.
struct SourceWeights {
  const float* weights;
  int64_t tokens, shared;
  bool rescale;
};

// An edit's attention weights as a panel: the source's, and of further tokens its own (null: it has none) by `scale`.
template <class T>
ECGTWIN_NOINLINE void edited_weights(const SourceWeights& source, const float* own, float scale, int64_t heads,
                                     int64_t tokens, uint32_t* panel) {
  for (int64_t head = 0; head < heads; ++head) {
    const float* rows = source.weights + head * source.tokens * T::tile;
    Vector factor[T::vectors];
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) factor[j] = source.rescale ? zero() : broadcast(1.0f);
    if (source.rescale) {
      for (int64_t token = 0; token < source.shared; ++token)
        ECGTWIN_UNROLL
        for (int j = 0; j < T::vectors; ++j) factor[j] += load_aligned(rows + token * T::tile + j * kLanes);
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) factor[j] = broadcast(1.0f) / factor[j];
    }
    for (int64_t token = 0; token < tokens; token += 2) {
      Block<T, 2> value;
      ECGTWIN_EACH(2) {
        const int64_t at = (token + i) * T::tile + j * kLanes;
        if (token + i < source.shared)
          value[i][j] = source.tokens ? load_aligned(rows + at) * factor[j] : broadcast(1.0f);
        else
          value[i][j] = own ? load_aligned(own + head * tokens * T::tile + at) * broadcast(scale) : zero();
      }
      store_panel<T, 2>(panel, T::tile, head * tokens + token, value);
    }
  }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
