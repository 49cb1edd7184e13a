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
  void* statistics;   // (batch, heads, 2, queries), compute type: log2(e) x the largest score, 1 / sum of exponentials
  int64_t queries, keys, heads, head_size;
  Dtype dtype;
};

struct AttentionGradArgs {
  AttentionArgs forward;
  HeadRows grad, grad_query, grad_key, grad_value;
  void* means;  // CUDA's scratch, (batch, heads, queries), compute type
};

// Channels of a head on CUDA: the sums of wider ones do not fit into registers.
constexpr int64_t widest_head(Dtype dtype) { return dtype == Dtype::float64 ? 64 : 128; }

constexpr float kMasked = -1e30f;  // as good as minus infinity, and finite

// The bias of a key in units of log2(e).
template <typename C>
ECGTWIN_INLINE C key_bias(const float* bias, int64_t key) {
  if (!bias) return C(0);
  const C value = C(bias[key]) * C(1.4426950408889634);
  return value > C(kMasked) ? value : C(kMasked);
}

ECGTWIN_DECLARE_KERNEL(multihead_attention, AttentionArgs)
ECGTWIN_DECLARE_KERNEL(multihead_attention_backward, AttentionGradArgs)

}  // namespace ecgtwin
