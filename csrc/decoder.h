// The autoencoder's decoder on the CPU: what the kernel takes. One task is one thread's work.
//
// Activations are float32 rows, one a channel, of `planes` planes of `lanes` positions: position planes * lane + plane
// is at [plane][lane]. A convolution's neighbours thus lie in other planes, at the same lane except at the ends, and
// doubling the length doubles the planes, so that no element ever changes its lane.
#pragma once

#include "kernel.h"
#include "product_layout.h"
#include "team.h"

namespace ecgtwin {

// What sizes must be multiples of, whatever the instruction set.
constexpr int64_t kDecoderChannels = 4, kDecoderLength = 128;
constexpr int64_t kLatentPlanes = 4;

// Weights of convolutions go in blocks of rows through chunks of dwords: products of a block's rows and a chunk of a
// panel stay in the caches. Packed as [block][point][chunk][strip][dword][row].
constexpr int64_t kBlockRows = 64, kChunk = 256;
// Products [tile][point] of a block's rows that one thread keeps at a time.
constexpr int64_t kProducts = 48;

enum class DecoderLayerKind : int64_t { pointwise, convolution, upsampling, attention };

struct DecoderLayer {
  DecoderLayerKind kind;
  int64_t in, out;            // channels; `out` padded to whole strips
  int64_t planes;             // of its input
  int64_t source, target;     // buffers
  int64_t groups;             // of the GroupNorm before it, with SiLU; 0: neither
  bool accumulate;            // adds to the target
  const uint32_t* weights;    // of a convolution; of an attention's queries
  const float* bias;          // likewise
  const float *scale, *shift; // of the GroupNorm
  const uint32_t *key, *value, *output;
  const float* output_bias;

  int64_t points() const {
    return kind == DecoderLayerKind::convolution ? 6 : kind == DecoderLayerKind::upsampling ? 3 : 1;
  }
  int64_t planes_out() const { return kind == DecoderLayerKind::upsampling ? 2 * planes : planes; }
};

constexpr int kDecoderBuffers = 3;

// Numbers of elements that suffice for every layer.
struct DecoderSizes {
  int64_t buffer, moments, panels, attended, rows, products, queries, scores;
};

// What the members of a team share.
struct DecoderTeam {
  Team team;
  float* buffers[kDecoderBuffers];  // [channel][plane][lane]
  float* moments;                   // [group]: mean and reciprocal deviation
  uint32_t* panels;                 // [tile][point][in / pack][ProductLayout::tile]
  uint32_t *keys, *values;          // as csrc/cpu/attention.h takes them

  void carve(Arena& arena, const DecoderSizes& sizes) {
    for (float*& buffer : buffers) buffer = arena.take<float>(sizes.buffer);
    moments = arena.take<float>(sizes.moments);
    panels = arena.take<uint32_t>(sizes.panels);
    keys = arena.take<uint32_t>(sizes.attended);
    values = arena.take<uint32_t>(sizes.attended);
  }
};

// One thread's own.
struct DecoderScratch {
  float* rows;        // two channels, activated, with a plane of neighbours before and behind
  float* products;    // [tile][point][kBlockRows][ProductLayout::tile]
  uint32_t* queries;  // of one tile
  float* scores;      // [length][ProductLayout::tile]

  void carve(Arena& arena, const DecoderSizes& sizes) {
    rows = arena.take<float>(sizes.rows);
    products = arena.take<float>(sizes.products);
    queries = arena.take<uint32_t>(sizes.queries);
    scores = arena.take<float>(sizes.scores);
  }
};

struct DecoderArgs {
  const DecoderLayer* layers;
  int64_t count;
  const float *mix, *mix_bias;  // (mixed, channels), (mixed): the pointwise convolution of the latent
  int64_t channels, mixed, leads;
  int64_t lanes;
  float eps;                    // of every GroupNorm
  const float* latents;         // (batch, channels, kLatentPlanes * lanes)
  float* signals;               // (batch, leads, planes * lanes of the last layer)
  int64_t* status;              // [0] counts records; [1], set from outside, ends the work between two records

  bool bfloat16;
  Crew<DecoderTeam, DecoderScratch> crew;
};

// Thread `thread` of the run.
ECGTWIN_DECLARE_ENGINE(decode, DecoderArgs)

}  // namespace ecgtwin
