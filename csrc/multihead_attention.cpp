// multihead_attention and its gradient: checks, outputs and launches for CPU and CUDA.
#include "multihead_attention.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

HeadRows head_rows(const Tensor& tensor) {
  return {const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1)};
}

Tensor empty_like_rows(const Tensor& x) { return at::empty(x.sizes(), x.options()); }

// What both directions are given, checked and with unit last strides.
struct Operands {
  Tensor query, key, value, bias;

  Operands(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& b,
           int64_t heads) {
    check_dim(op, "query", q, 3, "(batch, queries, width)");
    check_dim(op, "key", k, 3, "(batch, keys, width)");
    TORCH_CHECK(heads > 0 && q.size(2) > 0 && q.size(2) % heads == 0, op, ": the width ", q.size(2),
                " must be a positive multiple of heads, which is ", heads);
    const int64_t widest = widest_head(dtype_of(op, "query", q));
    TORCH_CHECK(!q.is_cuda() || q.size(2) / heads <= widest, op, ": on CUDA a head of ", q.scalar_type(),
                " has at most ", widest, " channels, but here it has ", q.size(2) / heads);
    TORCH_CHECK(k.size(1) > 0, op, ": key must hold at least one key, but its shape is ", k.sizes());
    check_like(op, "key", k, {q.size(0), k.size(1), q.size(2)}, q);
    check_like(op, "value", v, k.sizes(), q);
    query = unit_last_stride(q), key = unit_last_stride(k), value = unit_last_stride(v);
    if (b) {
      check_like(op, "bias", *b, {q.size(0), k.size(1)}, q, at::kFloat);
      bias = b->contiguous();
    }
  }

  AttentionArgs args(const char* op, const Tensor& statistics, int64_t heads) const {
    AttentionArgs a{};
    a.query = head_rows(query);
    a.key = head_rows(key);
    a.value = head_rows(value);
    a.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    a.statistics = const_cast<void*>(statistics.const_data_ptr());
    a.queries = query.size(1);
    a.keys = key.size(1);
    a.heads = heads;
    a.head_size = query.size(2) / heads;
    a.dtype = dtype_of(op, "query", query);
    return a;
  }
};

// Multiplications of one task, for the grain of the threads.
int64_t work(const AttentionArgs& a) { return a.queries * a.keys * a.head_size; }

std::tuple<Tensor, Tensor> multihead_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                               const std::optional<Tensor>& bias, int64_t heads) {
  const char* op = "multihead_attention";
  const Operands given(op, query, key, value, bias, heads);
  Tensor out = empty_like_rows(query);
  Tensor statistics = at::empty({query.size(0), heads, 2, query.size(1)}, query.options().dtype(compute_type(query)));
  AttentionArgs args = given.args(op, statistics, heads);
  args.out = head_rows(out);
  if (out.numel() > 0)
    launch(op, ECGTWIN_KERNEL(multihead_attention, AttentionArgs), args, query.size(0) * heads, work(args), query);
  return {out, statistics};
}

std::tuple<Tensor, Tensor, Tensor> multihead_attention_backward(const Tensor& grad, const Tensor& query,
                                                                const Tensor& key, const Tensor& value,
                                                                const std::optional<Tensor>& bias,
                                                                const Tensor& out, const Tensor& statistics,
                                                                int64_t heads) {
  const char* op = "multihead_attention_backward";
  const Operands given(op, query, key, value, bias, heads);
  check_like(op, "grad", grad, query.sizes(), query);
  check_like(op, "statistics", statistics, {query.size(0), heads, 2, query.size(1)}, query,
             compute_type(query));
  check_like(op, "out", out, query.sizes(), query);
  const Tensor grads = unit_last_stride(grad), result = unit_last_stride(out), saved = statistics.contiguous();
  Tensor grad_query = empty_like_rows(query), grad_key = empty_like_rows(key), grad_value = empty_like_rows(value);
  if (query.size(1) == 0) return {grad_query, grad_key.zero_(), grad_value.zero_()};
  AttentionGradArgs args{};
  args.forward = given.args(op, saved, heads);
  args.forward.out = head_rows(result);
  args.grad = head_rows(grads);
  args.grad_query = head_rows(grad_query);
  args.grad_key = head_rows(grad_key);
  args.grad_value = head_rows(grad_value);
  const Tensor means = query.is_cuda() ? at::empty({query.size(0), heads, query.size(1)}, saved.options()) : Tensor();
  if (means.defined()) args.means = means.data_ptr();
  launch(op, ECGTWIN_KERNEL(multihead_attention_backward, AttentionGradArgs), args, query.size(0) * heads,
         work(args.forward), query);
  return {grad_query, grad_key, grad_value};
}

}  // namespace

ECGTWIN_IMPL({
  m.impl("multihead_attention", &multihead_attention);
  m.impl("multihead_attention_backward", &multihead_attention_backward);
})

}  // namespace ecgtwin
