// group_norm_silu and its gradient: checks, outputs and launches for CPU and CUDA.
#include "group_norm_silu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include <tuple>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

bool channels_last(const Tensor& x) {
  return x.dim() == 3 && !x.is_contiguous() && x.transpose(1, 2).is_contiguous();
}

// What both directions are given, checked, and contiguous but for an x that is taken as it lies.
struct Operands {
  Tensor x, weight, bias;
  int64_t groups;

  Operands(const char* op, const Tensor& given, const Tensor& w, const Tensor& b, int64_t count, bool in_place = false)
      : groups(count) {
    check_dim(op, "x", given, 3, "(batch, channels, length)");
    const int64_t channels = given.size(1);
    TORCH_CHECK(groups > 0 && channels > 0 && channels % groups == 0, op, ": the ", channels,
                " channels of x must be a positive multiple of groups, which is ", groups);
    check_like(op, "weight", w, {channels}, given);
    check_like(op, "bias", b, {channels}, given);
    x = in_place ? given : given.contiguous(), weight = w.contiguous(), bias = b.contiguous();
  }

  at::TensorOptions compute() const { return x.options().dtype(compute_type(x)); }
  int64_t tasks() const { return x.size(2) > 0 ? x.size(0) * groups : 0; }
  int64_t elements_of_task() const { return x.size(1) / groups * x.size(2); }

  GroupNormArgs args(const char* op, const Tensor& statistics) const {
    GroupNormArgs a{};
    a.x = x.const_data_ptr();
    a.weight = weight.const_data_ptr();
    a.bias = bias.const_data_ptr();
    a.statistics = const_cast<void*>(statistics.const_data_ptr());
    a.channels = x.size(1);
    a.length = x.size(2);
    a.groups = groups;
    a.dtype = dtype_of(op, "x", x);
    return a;
  }
};

std::tuple<Tensor, Tensor> group_norm_silu(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
                                           double eps) {
  const char* op = "group_norm_silu";
  const bool last = channels_last(x), in_place = last && x.is_cuda();
  const Operands given(op, x, weight, bias, groups, in_place);
  Tensor out = at::empty_like(given.x), statistics = at::empty({x.size(0), groups, 2}, given.compute());
  GroupNormArgs args = given.args(op, statistics);
  args.channels_last = in_place;
  args.out = out.data_ptr();
  args.eps = eps;
  launch(op, ECGTWIN_KERNEL(group_norm_silu, GroupNormArgs), args, given.tasks(), given.elements_of_task(), given.x);
  return {last && !in_place ? out.transpose(1, 2).contiguous().transpose(1, 2) : out, statistics};
}

std::tuple<Tensor, Tensor, Tensor> group_norm_silu_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                            const Tensor& bias, const Tensor& statistics,
                                                            int64_t groups) {
  const char* op = "group_norm_silu_backward";
  const Operands given(op, x, weight, bias, groups);
  check_like(op, "grad", grad, x.sizes(), x);
  check_like(op, "statistics", statistics, {x.size(0), groups, 2}, x, compute_type(x));
  const Tensor rows = grad.contiguous(), moments = statistics.contiguous();
  Tensor grad_x = at::empty_like(given.x);
  Tensor partial = at::empty({2, x.size(0), x.size(1)}, given.compute());
  if (given.tasks() == 0) partial.zero_();
  GroupNormGradArgs args{};
  args.forward = given.args(op, moments);
  args.grad = rows.const_data_ptr();
  args.grad_x = grad_x.data_ptr();
  args.partial_weight = partial.select(0, 0).data_ptr();
  args.partial_bias = partial.select(0, 1).data_ptr();
  launch(op, ECGTWIN_KERNEL(group_norm_silu_backward, GroupNormGradArgs), args, given.tasks(),
         given.elements_of_task(), given.x);
  const Tensor total = at::sum(partial, {1}).to(x.scalar_type());
  return {grad_x, total.select(0, 0).clone(), total.select(0, 1).clone()};
}

}  // namespace

ECGTWIN_IMPL({
  m.impl("group_norm_silu", &group_norm_silu);
  m.impl("group_norm_silu_backward", &group_norm_silu_backward);
})

}  // namespace ecgtwin
