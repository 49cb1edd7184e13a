// Attention of queries to keys by heads, with its gradient:
//   out = softmax(query key^T / sqrt(head size) + bias) value
// Arguments of the kernels. A task is one head of one record.
#pragma once

#include "common.h"
#include "kernel.h"

namespace ecgtwin {

// A matrix (batch, rows, heads x head size) whose channels lie side by side; strides in elements.
struct HeadRows {
  void* data;
  int64_t batch_stride, row_stride;
};

struct AttentionArgs {
  HeadRows query, key, value, out;
  const float* bias;  // (batch, keys), added to the scores; null: none
  float* statistics;  // (batch, heads, 2, queries): the largest score, log2(e) times it, and 1 / sum of exponentials
  int64_t queries, keys, heads, head_size;
  Dtype dtype;
};

struct AttentionGradArgs {
  AttentionArgs forward;  // out is not read
  HeadRows grad, grad_query, grad_key, grad_value;
};

constexpr float kMasked = -1e30f;  // as good as minus infinity, and finite

// The bias of a key in units of log2(e).
ECGTWIN_INLINE float key_bias(const float* bias, int64_t key) {
  if (!bias) return 0.0f;
  const float value = bias[key] * 1.44269504f;
  return value > kMasked ? value : kMasked;
}

ECGTWIN_DECLARE_KERNEL(multihead_attention, AttentionArgs)
ECGTWIN_DECLARE_KERNEL(multihead_attention_backward, AttentionGradArgs)

}  // namespace ecgtwin
