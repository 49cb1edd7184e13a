// Whole reverse diffusions of the denoiser `dit` on a GPU, or some steps of them: what the kernel is given.
#pragma once

#include "common.h"
#include "kernel.h"

namespace ecgtwin {

// B records, S steps, W channels in heads of `head`; float32 but for what multiplies, which is bfloat16.
struct TrajectoryArgs {
  // Every matrix of a step in order of use, as parts of 8 x 8 (`cores` of ecgtwin_fast/engine/cuda_denoiser.py).
  const void* weights;
  // Of each block: self-attention's queries, the condition's queries and output, W each; the MLP's hidden units.
  const float* biases;
  const float *embed_weight, *embed_bias;    // (channels, W), (W)
  const float *cosine, *sine;                // (length, W / 2)
  const float *final_weight, *final_bias;    // (channels, W), (channels)
  const float* modulation;                   // (bases, S, depth, 2, 4, W): shift, scale, gate, gate * output's bias
  const int64_t* base_of;                    // (B)
  // Of each condition, block and head: `tokens` keys and values as fragments, and a bias of the scores, -inf where
  // a token is padding. The first `counts` tokens of a condition are there.
  const void *keys, *values;                 // (conditions, depth, heads, tokens * head)
  const float* score_bias;                   // (conditions, depth, heads, tokens)
  const int64_t *counts, *condition_of;      // (conditions), (B)
  const float* coefficients;                 // (S, 8), of sampler_step.h
  const float* noise;                        // (S, B, channels, length), or null: drawn
  float *latents, *clean;                    // (B, channels, length): x and the clean latent predicted last; changed
  int32_t* taken;                            // records that blocks have taken; 0 at first
  int64_t records, channels, length, width, head, depth, units, tokens, steps;
  uint64_t seed, first_index;
  uint32_t first_step;                       // the number of the first of the S steps
  int32_t draws;                             // whether the initial latents are drawn, before step 0
};

// Tasks are thread blocks, of which any number does.
ECGTWIN_DECLARE_KERNEL(trajectory, TrajectoryArgs)

}  // namespace ecgtwin
