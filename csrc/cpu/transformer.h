// The embedding and the blocks of a transformer over one record, a tile of positions at a time.
#pragma once

#if defined(__AVX2__)

#include "cpu/attention.h"
#include "cpu/tile_norm.h"
#include "transformer.h"

namespace ecgtwin::ECGTWIN_VARIANT {

// The denoiser's block (arXiv 2508.02720, AdaX): queries of the cross-attention are normed, its result is added.
struct DenoiserBlock {
  static constexpr bool norm_queries = true, subtract_positive = false;
  static constexpr float eps = 1e-6f;
  template <class T>
  ECGTWIN_INLINE Vector activation(Vector x) { return gelu<T::exact>(x); }
};

// The Individual Base Extractor's: what the condition explains is subtracted, through a ReLU.
struct ExtractorBlock {
  static constexpr bool norm_queries = false, subtract_positive = true;
  static constexpr float eps = 1e-5f;
  template <class T>
  ECGTWIN_INLINE Vector activation(Vector x) { return maximum(x, zero()); }
};

// What a record's cross-attention has to do with that of another one.
enum class Part { alone, source, edit };

struct Edit {
  Part part;
  int64_t source_tokens, shared;  // of SourceWeights
  bool rescale;
  float scale;                    // of an edit's own attention to further tokens
  bool further;                   // whether there are any
};

// One thread at work on one record.
template <class T>
struct Worker {
  const Transformer& net;
  const TransformerScratch& own;
  TransformerShared& shared;
  Range tiles;
  int64_t turn;  // of shared.keys and values
  int64_t member = 0;  // of the records that it takes together
  Edit edit{};

  int64_t pairs() const { return net.width / T::pack; }
  float* x(int64_t tile) const { return own.x + (member * net.length + tile * T::tile) * net.width; }
  uint32_t* panel(int64_t tile) const { return own.panel + tile * pairs() * T::tile; }
  uint32_t* queries(int64_t tile) const { return own.queries + tile * pairs() * T::tile; }
};

// x = rotary(latent x in_weight + in_bias), a latent being (channels, length).
template <class T>
ECGTWIN_NOINLINE void embed(const Worker<T>& w, const float* latent, int64_t tile) {
  const Transformer& net = w.net;
  float* x = w.x(tile);
  const int64_t half = net.width / 2;
  for (int64_t j = 0; j < T::tile; j += kLanes) {
    const int64_t position = tile * T::tile + j;
    for (int64_t c = 0; c < half; ++c) {
      Vector low = broadcast(net.in_bias[c]), high = broadcast(net.in_bias[c + half]);
      for (int64_t i = 0; i < net.channels; ++i) {
        const Vector value = load_unaligned(latent + i * net.length + position);
        low = multiply_add(value, broadcast(net.in_weight[c * net.channels + i]), low);
        high = multiply_add(value, broadcast(net.in_weight[(c + half) * net.channels + i]), high);
      }
      const Vector cosine = load_unaligned(net.cosine + c * net.length + position);
      const Vector sine = load_unaligned(net.sine + c * net.length + position);
      store_aligned(x + c * T::tile + j, low * cosine - high * sine);
      store_aligned(x + (c + half) * T::tile + j, multiply_add(low, sine, high * cosine));
    }
  }
}

// x += attention weights x values + bias, or x -= their positive part.
template <class T, class Kind>
ECGTWIN_NOINLINE void cross_output(const uint32_t* values, const uint32_t* weights, int64_t width, int64_t pairs,
                                   const float* bias, float* x) {
  product<T>(values, weights, width, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    ECGTWIN_EACH(T::rows) {
      float* place = x + (row + i) * T::tile + j * kLanes;
      const Vector value = block[i][j] + broadcast(bias[row + i]), before = load_aligned(place);
      store_aligned(place, Kind::subtract_positive ? before - maximum(value, zero()) : before + value);
    }
  });
}

// The same where there is one token, to which every position attends alike.
template <class T, class Kind>
ECGTWIN_NOINLINE void constant_output(const float* values, int64_t width, float* x) {
  for (int64_t c = 0; c < width; ++c) {
    const Vector value = broadcast(Kind::subtract_positive ? (values[c] > 0 ? -values[c] : 0.0f) : values[c]);
    for (int64_t j = 0; j < T::tile; j += kLanes)
      store_aligned(x + c * T::tile + j, load_aligned(x + c * T::tile + j) + value);
  }
}

// By position, the reciprocal deviation over channels of the queries that TransformerBlock tells of.
template <class T>
ECGTWIN_NOINLINE void query_factors(const TransformerBlock& block, int64_t width, const uint32_t* panel, Vector* factor) {
  Vector sum[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) sum[j] = zero();
  const uint32_t* weights = block.triangle;
  for (int64_t row = 0; row < width; row += T::rows) {
    const int64_t pairs = (width - row) / T::pack;
    multiply<T, 512>(weights, 1, T::rows, panel + row / T::pack * T::tile, pairs,
                     [&](Block<T, T::rows>& product) __attribute__((always_inline)) {
                       ECGTWIN_EACH(T::rows) {
                         const Vector value = product[i][j] + broadcast(block.triangle_offset[row + i]);
                         sum[j] = multiply_add(value, value, sum[j]);
                       }
                     });
    weights += T::rows * pairs;
  }
  const Vector share = broadcast(1.0f / static_cast<float>(width));
  for (int j = 0; j < T::vectors; ++j)
    factor[j] = broadcast(1.0f) / square_roots(multiply_add(sum[j], share, broadcast(1e-5f)));
}

template <class T, class Kind>
ECGTWIN_INLINE void cross_attention(const Worker<T>& w, const TransformerBlock& block, int64_t index,
                                    const TransformerCondition& condition, int64_t tile) {
  const Transformer& net = w.net;
  float* x = w.x(tile);
  if (condition.tokens == 0) {
    constant_output<T, Kind>(condition.constant + index * net.width, net.width, x);
    return;
  }
  const int64_t pairs = w.pairs(), rows = net.heads * condition.tokens;
  layer_norm<T, Affine::none>(x, net.width, nullptr, nullptr, Kind::eps, w.panel(tile));
  Vector factor[T::vectors];
  for (int j = 0; j < T::vectors; ++j) factor[j] = broadcast(1.0f);
  if constexpr (Kind::norm_queries) query_factors<T>(block, net.width, w.panel(tile), factor);
  const float *offset = condition.scores + index * 2 * rows, *bias = offset + rows;
  const TokenKeys keys{condition.keys + index * rows * pairs, offset, bias, condition.tokens};
  if (w.edit.part == Part::alone) {
    token_attention<T>(keys, net.heads, w.panel(tile), pairs, factor, w.own.scores, w.own.weights);
  } else if (w.edit.part == Part::source) {
    float* kept = w.own.source + tile * rows * T::tile;
    token_weights<T>(keys, net.heads, w.panel(tile), pairs, factor, kept);
    pack_weights<T>(kept, rows, w.own.weights);
  } else {
    const int64_t lent = net.heads * w.edit.source_tokens;
    const SourceWeights source{w.own.source + tile * lent * T::tile, w.edit.source_tokens, w.edit.shared, w.edit.rescale};
    if (w.edit.further) token_weights<T>(keys, net.heads, w.panel(tile), pairs, factor, w.own.own);
    edited_weights<T>(source, w.edit.further ? w.own.own : nullptr, w.edit.scale, net.heads, condition.tokens,
                      w.own.weights);
  }
  cross_output<T, Kind>(condition.values + index * net.width * (rows / T::pack), w.own.weights, net.width,
                        rows / T::pack, block.cross_bias, x);
}

template <class T, class Kind>
ECGTWIN_NOINLINE void activated_linear(const uint32_t* weights, const uint32_t* panel, int64_t rows, int64_t pairs,
                                       const float* bias, uint32_t* out) {
  product<T>(weights, panel, rows, pairs, [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
    ECGTWIN_EACH(T::rows) block[i][j] = Kind::template activation<T>(block[i][j] + broadcast(bias[row + i]));
    store_panel<T, T::rows>(out, T::tile, row, block);
  });
}

// One block on the thread's tiles. modulation: shift, scale and gate of the attention, then of the MLP, each (width).
template <class T, class Kind>
ECGTWIN_INLINE void transformer_block(Worker<T>& w, int64_t index, const float* modulation,
                                      const TransformerCondition& condition) {
  const Transformer& net = w.net;
  const TransformerBlock& block = net.blocks[index];
  const int64_t width = net.width, pairs = w.pairs(), length = net.length, unit = width * pairs;
  const float *shift1 = modulation, *scale1 = shift1 + width, *gate1 = scale1 + width;
  const float *shift2 = gate1 + width, *scale2 = shift2 + width, *gate2 = scale2 + width;
  uint32_t *keys = w.shared.keys[w.turn], *values = w.shared.values[w.turn];
  w.turn ^= 1;
#define ECGTWIN_TILES for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile)
  ECGTWIN_TILES layer_norm<T, Affine::one_plus_scale_shift>(w.x(tile), width, scale1, shift1, Kind::eps, w.panel(tile));
  ECGTWIN_TILES linear_to_panel<T>(block.key, w.panel(tile), width, pairs, nullptr, 1, keys + tile * T::tile, length);
  ECGTWIN_TILES linear_to_elements<T>(block.value, w.panel(tile), width, pairs, values, length, tile * T::tile);
  ECGTWIN_TILES linear_to_panel<T>(block.query, w.panel(tile), width, pairs, block.query_bias, net.query_factor,
                                   w.queries(tile), T::tile);
  meet(w.shared.team);
  ECGTWIN_TILES self_attention<T>(keys, values, length, net.heads, net.head_size(), w.own.scores, w.queries(tile));
  ECGTWIN_TILES gated_linear<T>(block.output, w.queries(tile), width, pairs, block.output_bias, gate1, w.x(tile),
                                T::tile);
  ECGTWIN_TILES cross_attention<T, Kind>(w, block, index, condition, tile);
  ECGTWIN_TILES layer_norm<T, Affine::one_plus_scale_shift>(w.x(tile), width, scale2, shift2, Kind::eps, w.panel(tile));
  for (int64_t chunk = 0; chunk < net.ratio; ++chunk)
    ECGTWIN_TILES {
      uint32_t* hidden = reinterpret_cast<uint32_t*>(w.own.scores);
      activated_linear<T, Kind>(block.up + chunk * unit, w.panel(tile), width, pairs, block.up_bias + chunk * width,
                                hidden);
      gated_linear<T>(block.down + chunk * unit, hidden, width, pairs, chunk ? nullptr : block.down_bias, gate2,
                      w.x(tile), T::tile);
    }
#undef ECGTWIN_TILES
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
