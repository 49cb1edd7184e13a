// Whole reverse diffusions of the denoiser `dit` on the CPU: what the kernel takes. One task is one thread's work.
#pragma once

#include "kernel.h"
#include "sampler_step.h"
#include "transformer.h"

namespace ecgtwin {

// The modulation of all blocks at some consecutive steps, [step][modulation_stride], for one base vector.
struct ModulationTable {
  float* rows;
  uint32_t* panel;
  int64_t base, chunk;  // what it holds; base -1: nothing yet
};

struct DenoiserTeam : TransformerShared {
  ModulationTable table;
  int64_t stop[2];  // by parity of the step: whether the leader has seen a cancellation

  void carve(Arena& arena, const Transformer& net, const ProductLayout& layout, int64_t steps) {
    TransformerShared::carve(arena, net, layout);
    table.rows = arena.take<float>(steps * net.modulation_stride());
    table.panel = arena.take<uint32_t>(net.width / layout.pack * steps);
    table.base = -1;
  }
};

struct DenoiserScratch : TransformerScratch {
  float *latent, *x0;  // (group, channels, length): the state and the clean latent predicted by the step before

  void carve(Arena& arena, const Transformer& net, const ProductLayout& layout, int64_t tokens, int64_t group) {
    TransformerScratch::carve(arena, net, layout, tokens, group);
    latent = arena.take<float>(group * net.channels * net.length);
    x0 = arena.take<float>(group * net.channels * net.length);
  }
};

struct DenoiserArgs {
  Transformer net;
  const float *out_weight, *out_bias;  // (channels, width), (channels)
  const uint32_t* modulation;          // packed (modulations, width)
  const float* modulation_bias;
  const float* time;                   // embedded timesteps (steps, width)
  const float* base;                   // projected base vectors (bases, width)
  const TransformerCondition* conditions;
  const int64_t *base_of, *condition_of;  // by record
  const float* x_init;                 // (batch, channels, length); null: drawn
  const float* noise;                  // (steps, batch, channels, length); null: drawn
  const float* coefficients;           // (steps, kCoefficients)
  float* latents;                      // (batch, channels, length)
  int64_t steps;
  // Records come in groups that share their draws: a source and edits of it, which take its cross-attention for their
  // first tokens from step `edit_step` on. 1: every record by itself.
  int64_t group, edit_step;
  const int64_t* token_counts;         // by record, padding left out; null without groups
  const float* edit_scales;            // by record: of an edit's own attention to further tokens; null without groups
  uint64_t seed, first_index;
  int64_t* status;                     // [0] counts tiles denoised by one step; [1], set from outside, ends the work

  bool bfloat16;
  Crew<DenoiserTeam, DenoiserScratch> crew;
};

// Thread `thread` of the run.
ECGTWIN_DECLARE_ENGINE(denoise, DenoiserArgs)

}  // namespace ecgtwin
