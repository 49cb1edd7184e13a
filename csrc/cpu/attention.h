// Attention of one tile of query positions. Scores stay in the L1 cache; the softmax runs down the keys, lane by lane.
// Queries come scaled by log2(e) / sqrt(head size), so that the exponential is a power of two.
#pragma once

#if defined(__AVX2__)

#include "cpu/product.h"

namespace ecgtwin::ECGTWIN_VARIANT {

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
  for (int64_t key = 0; key < count; key += 2) {
    Block<T, 2> value;
    ECGTWIN_EACH(2) {
      value[i][j] = exp2<T::exact>(load_aligned(scores + (key + i) * T::tile + j * kLanes) - top[j]);
      sum[j] += value[i][j];
    }
    store_panel<T, 2>(reinterpret_cast<uint32_t*>(scores), T::tile, key, value);
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

// Attention weights of one tile for `tokens` keys a head, as a panel of heads x tokens rows. The score of a row is
// (keys x panel + offset) factor + bias; keys are packed, the factor is by position, offset and bias are by row.
// scores: room for [tokens][tile].
template <class T>
ECGTWIN_NOINLINE void token_attention(const uint32_t* keys, const float* offset, const float* bias, int64_t tokens,
                                      int64_t heads, const uint32_t* panel, int64_t pairs, const Vector* factor,
                                      float* scores, uint32_t* weights) {
  for (int64_t head = 0; head < heads; ++head, keys += tokens * pairs, offset += tokens, bias += tokens) {
    Vector largest[T::vectors], sum[T::vectors];
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) largest[j] = broadcast(-3e38f), sum[j] = zero();
    product<T>(keys, panel, tokens, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
      ECGTWIN_EACH(T::rows) {
        const Vector score =
            multiply_add(block[i][j] + broadcast(offset[row + i]), factor[j], broadcast(bias[row + i]));
        largest[j] = maximum(largest[j], score);
        store_aligned(scores + (row + i) * T::tile + j * kLanes, score);
      }
    });
    for (int64_t token = 0; token < tokens; ++token)
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) {
        float* place = scores + token * T::tile + j * kLanes;
        const Vector value = exp2<T::exact>(load_aligned(place) - largest[j]);
        sum[j] += value;
        store_aligned(place, value);
      }
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) sum[j] = broadcast(1.0f) / sum[j];
    for (int64_t token = 0; token < tokens; token += 2) {
      Block<T, 2> value;
      ECGTWIN_EACH(2) value[i][j] = load_aligned(scores + (token + i) * T::tile + j * kLanes) * sum[j];
      store_panel<T, 2>(weights, T::tile, head * tokens + token, value);
    }
  }
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
