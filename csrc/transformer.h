// A transformer over one record's latent, as the CPU kernels take it: the denoiser's blocks (AdaX) and the Individual
// Base Extractor's, which differ in a few places named by `TransformerKind`. Pointers only; weights packed as in
// product_layout.h, everything else in float32.
#pragma once

#include <cstdint>

#include "product_layout.h"
#include "team.h"

namespace ecgtwin {

// What sizes must be multiples of, whatever the instruction set.
constexpr int64_t kHeadMultiple = 8, kLengthMultiple = 64;

// Biases of keys cancel in the softmax, and those of values are part of output_bias.
struct TransformerBlock {
  const uint32_t *query, *key, *value, *output;            // self-attention, each (width, width)
  const uint32_t* cross_query;                             // (width, width)
  const uint32_t *up, *down;                               // `ratio` chunks, each (width, width)
  const float *query_bias, *output_bias, *cross_query_bias;
  const float *query_scale, *query_shift;                  // of the queries' LayerNorm, times log2(e) / sqrt(head size)
  const float* cross_bias;
  const float *up_bias, *down_bias;
};

// What a record's report and patient numbers come to, the same at every step.
struct TransformerCondition {
  int64_t tokens;          // padded to a multiple of ProductLayout::rows; 0: one alone, and only `constant` is set
  const uint32_t* keys;    // by block: [head][tokens] packed rows of head-size channels
  const uint32_t* values;  // by block: packed (width, heads x tokens), the output projection folded in
  const float* bias;       // by token, added to the scores, times log2(e); far below zero for padding
  const float* constant;   // by block: (width), what every position attends to, projected, with its bias
};

struct Transformer {
  int64_t width, heads, ratio, depth, length, channels;
  const TransformerBlock* blocks;
  const float *in_weight, *in_bias;    // (width, channels), (width)
  const float *cosine, *sine;          // of the rotary encoding, (width / 2, length)
  float query_factor;                  // log2(e) / sqrt(head size)

  int64_t head_size() const { return width / heads; }
  int64_t modulations() const { return depth * 6 * width; }
};

// One thread's own buffers. x, panel and queries hold all tiles of a record, of which the thread uses its own.
struct TransformerScratch {
  float* x;              // the residual stream, [tile][width][ProductLayout::tile]
  uint32_t *panel, *queries;
  float* scores;         // also the panel of a chunk of the MLP's hidden layer
  float* cross;          // queries of the cross-attention before their norm
  uint32_t* weights;     // of the cross-attention

  static TransformerScratch carve(Arena& arena, const Transformer& net, const ProductLayout& layout, int64_t tokens) {
    const int64_t row = net.width / layout.pack;
    const int64_t scores = net.length > net.width ? net.length : net.width;
    TransformerScratch s{};
    s.x = arena.take<float>(net.width * net.length);
    s.panel = arena.take<uint32_t>(row * net.length);
    s.queries = arena.take<uint32_t>(row * net.length);
    s.scores = arena.take<float>((tokens > scores ? tokens : scores) * layout.tile);
    s.cross = arena.take<float>(net.width * layout.tile);
    s.weights = arena.take<uint32_t>(net.heads * tokens / layout.pack * layout.tile);
    return s;
  }
};

// Keys and values of a record, shared by its team; written alternately, so that one meeting a block is enough.
struct TransformerShared {
  Team team;
  uint32_t *keys[2], *values[2];

  void carve(Arena& arena, const Transformer& net, const ProductLayout& layout) {
    for (int i = 0; i < 2; ++i) {
      keys[i] = arena.take<uint32_t>(net.width / layout.pack * net.length);
      values[i] = arena.take<uint32_t>(net.width / layout.pack * net.length);
    }
  }
};

}  // namespace ecgtwin
