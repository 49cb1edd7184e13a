// Attention of one tile of query positions. Scores stay in the L1 cache; the softmax runs down the keys, lane by lane.
// Queries come scaled by log2(e) / sqrt(head size), so that the exponential is a power of two.
#pragma once

#if defined(__AVX2__)

#include "cpu/product.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// Scores [keys][tile] of packed or strided keys against a panel of queries, plus `bias` by key where given; their
// largest by position goes to `largest`.
template <class T, bool biased>
ECGTWIN_NOINLINE void attention_scores(const uint32_t* keys, int64_t count, int64_t key_step, int64_t pair_step,
                                       const uint32_t* queries, int64_t pairs, const float* bias, float* scores,
                                       Vector* largest) {
  Vector top[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) top[j] = broadcast(-3e38f);
  for (int64_t key = 0; key < count; key += T::rows, keys += key_step)
    multiply<T, 0>(keys, 1, pair_step, queries, pairs,
                   [&](Block<T, T::rows>& block) __attribute__((always_inline)) {
                     ECGTWIN_EACH(T::rows) {
                       if (biased) block[i][j] += broadcast(bias[key + i]);
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
    attention_scores<T, false>(keys + head * pairs * length, length, T::rows, length, own, pairs, nullptr, scores,
                                  largest);
    exponentials<T>(scores, length, largest, inverse);
    attended_values<T>(values + head * head_size * (length / T::pack), head_size, length,
                       reinterpret_cast<const uint32_t*>(scores), inverse, own);
  }
}

// Attention weights of one tile for `tokens` keys a head, as a panel of heads x tokens rows.
// keys: packed by head as [head][tokens / rows][head_size / pack][rows]; bias: by token. scores: room for [tokens][tile].
template <class T>
ECGTWIN_NOINLINE void token_attention(const uint32_t* keys, const float* bias, int64_t tokens, int64_t heads,
                                      int64_t head_size, const uint32_t* queries, float* scores, uint32_t* weights) {
  const int64_t pairs = head_size / T::pack;
  for (int64_t head = 0; head < heads; ++head) {
    Vector largest[T::vectors], sum[T::vectors];
    attention_scores<T, true>(keys + head * tokens * pairs, tokens, T::rows * pairs, T::rows,
                                 queries + head * pairs * T::tile, pairs, bias, scores, largest);
    for (int j = 0; j < T::vectors; ++j) sum[j] = zero();
    for (int64_t token = 0; token < tokens; ++token)
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) {
        float* place = scores + token * T::tile + j * kLanes;
        const Vector value = exp2<T::exact>(load_aligned(place) - largest[j]);
        sum[j] += value;
        store_aligned(place, value);
      }
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
