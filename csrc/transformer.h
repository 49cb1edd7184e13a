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
//
// The queries of the cross-attention are never made. They are linear in the positions, so their products with a
// condition's keys are products of the positions with other keys, made once (TransformerCondition). Where the queries are
// normed, that leaves their variance: with centred weights W and biases, |W x + b|^2 = |R x + r|^2, (R, r) the triangle of
// the QR decomposition of (W, b), which takes half the products.
struct TransformerBlock {
  const uint32_t *query, *key, *value, *output;  // self-attention, each (width, width)
  const uint32_t* triangle;                      // R: strips of rows, each from its first row's column on
  const uint32_t *up, *down;                     // `ratio` chunks, each (width, width)
  const float *query_bias, *output_bias;
  const float* triangle_offset;                  // r
  const float* cross_bias;
  const float *up_bias, *down_bias;
};

// What a record's report and patient numbers come to, the same at every step.
struct TransformerCondition {
  int64_t tokens;          // padded to a multiple of ProductLayout::rows; 0: one alone, and only `constant` is set
  const uint32_t* keys;    // by block: packed (heads x tokens, width), the query projection folded in
  const float* scores;     // by block: offset and bias of scores, (heads x tokens) each, see token_attention
  const uint32_t* values;  // by block: packed (width, heads x tokens), the output projection folded in
  const float* constant;   // by block: (width), what every position attends to, projected, with its bias
};

struct Transformer {
  int64_t width, heads, ratio, depth, length, channels;
  const TransformerBlock* blocks;
  const float *in_weight, *in_bias;    // (width, channels), (width)
  const float *cosine, *sine;          // of the rotary encoding, (width / 2, length)
  float query_factor;                  // log2(e) / sqrt(head size)

  // Dwords of a block's triangle.
  int64_t triangle_size(const ProductLayout& layout) const {
    int64_t size = 0;
    for (int64_t row = 0; row < width; row += layout.rows) size += layout.rows * (width - row) / layout.pack;
    return size;
  }
  int64_t head_size() const { return width / heads; }
  int64_t modulations() const { return depth * 6 * width; }
  // Between the steps of a table of modulations; odd in cache lines, so that a column does not crowd into a few sets.
  int64_t modulation_stride() const { return modulations() / 32 * 32 + 48; }
};

// One thread's own buffers. x, panel and queries hold all tiles of a record, of which the thread uses its own; x those of
// all `group` records that it takes together, of which the first may lend its attention weights to the others.
struct TransformerScratch {
  float* x;              // the residual stream, [record][tile][width][ProductLayout::tile]
  uint32_t *panel, *queries;
  float* scores;         // also the panel of a chunk of the MLP's hidden layer
  uint32_t* weights;     // of the cross-attention
  float *source, *own;   // of the first record's in floats, [tile][heads x tokens][ProductLayout::tile]; of one tile

  void carve(Arena& arena, const Transformer& net, const ProductLayout& layout, int64_t tokens, int64_t group = 1) {
    const int64_t row = net.width / layout.pack, lent = group > 1 ? net.heads * tokens : 0;
    const int64_t most = net.length > net.width ? net.length : net.width;
    x = arena.take<float>(group * net.width * net.length);
    source = arena.take<float>(lent * net.length);
    own = arena.take<float>(lent * layout.tile);
    panel = arena.take<uint32_t>(row * net.length);
    queries = arena.take<uint32_t>(row * net.length);
    scores = arena.take<float>((tokens > most ? tokens : most) * layout.tile);
    weights = arena.take<uint32_t>(net.heads * tokens / layout.pack * layout.tile);
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
