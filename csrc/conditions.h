// From the tokens of conditions to keys and values for a transformer's cross-attention (TransformerCondition), once for
// all steps. Always in float32, tokens in SIMD lanes: a token's result depends on no other token.
#pragma once

#include "kernel.h"
#include "product_layout.h"

namespace ecgtwin {

// Where the results of one token go, and which of `tokens` (padded) of its condition it is.
struct TokenPlace {
  void *keys, *values;  // as in TransformerCondition, of float32 or bfloat16 elements; null where the token is alone
  float *scores, *constant;
  int64_t index, tokens;
};

struct ConditionArgs {
  int64_t tokens, features, width, depth, heads;
  const float* input;                                 // (tokens, features)
  const float* positions;                             // (tokens, width), added to the projected input; null: nothing is
  float eps;                                          // of the LayerNorm that follows
  const uint32_t* projection;                         // packed (width, features rounded up to even)
  const float* projection_bias;
  const uint32_t* both;                               // packed (depth, 2, width, width): keys and values of a block
  const float* both_bias;                             // (depth, 2, width)
  const float *norm_scale, *norm_shift;               // (depth, 2, width), LayerNorms of keys and values; null: none
  // Of a head's queries, transposed and times the norm's scale and log2(e) / sqrt(head size); see TransformerBlock.
  const uint32_t* query;                              // packed (depth, heads, width, head size)
  const float* query_offset;                          // (depth, width): the bias, times the same
  const float* query_shift;                           // (depth, width): the norm's shift, times log2(e) / ...; or zeros
  const float* score_bias;                            // (tokens), times log2(e)
  const uint32_t* output;                             // packed (depth, heads, width, head size)
  const float* output_bias;                           // (depth, width)
  const TokenPlace* places;                           // by token
  float* panels;                                      // (tiles, width, tile): normed tokens
  float* scratch;                                     // (max(features + 1, 2 width), tile), of the calling thread
  ProductLayout to;                                   // of the results
};

// Projects and norms the tokens of one tile into a.panels.
ECGTWIN_DECLARE_ENGINE(project_tokens, ConditionArgs)
// Keys and values of task / depth, a tile, in block task % depth.
ECGTWIN_DECLARE_ENGINE(attend_tokens, ConditionArgs)

}  // namespace ecgtwin
