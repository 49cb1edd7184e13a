// The Individual Base Extractor on the CPU: what the kernel takes. One task is one thread's work.
#pragma once

#include "kernel.h"
#include "transformer.h"

namespace ecgtwin {

struct ExtractorTeam : TransformerShared {
  float* sums;  // [tile][width], over the positions of each tile

  void carve(Arena& arena, const Transformer& net, const ProductLayout& layout) {
    TransformerShared::carve(arena, net, layout);
    sums = arena.take<float>(net.length / layout.tile * net.width);
  }
};

struct ExtractorArgs {
  Transformer net;
  const float* modulation;             // scale - 1 and shift of each block's norms in the denoiser's places; gates 1
  const TransformerCondition* conditions;
  const int64_t* condition_of;         // by record
  const float* latents;                // (batch, channels, length)
  float* base_vectors;                 // (batch, width)

  bool bfloat16;
  Crew<ExtractorTeam, TransformerScratch> crew;
};

// Thread `thread` of the run.
ECGTWIN_DECLARE_ENGINE(extract, ExtractorArgs)

}  // namespace ecgtwin
