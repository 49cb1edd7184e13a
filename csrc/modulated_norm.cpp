// modulated_layer_norm and gated_residual, with their gradients: checks, outputs and launches for CPU and CUDA.
#include "modulated_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include <tuple>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

Tensor empty_rows(const Tensor& x) { return at::empty_like(x, at::MemoryFormat::Contiguous); }

void check_rows(const char* op, const char* name, const Tensor& x) {
  check_dim(op, name, x, 3, "(batch, length, width)");
  TORCH_CHECK(x.size(2) > 0, op, ": ", name, " must have a width of at least 1, but its shape is ", x.sizes());
}

// A modulation (batch, width) that fits x (batch, length, width), with unit last stride.
Tensor modulation(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  check_like(op, name, tensor, {x.size(0), x.size(2)}, x);
  return unit_last_stride(tensor);
}

void run_forward(const char* op, NormArgs args, const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
  args.x = x.const_data_ptr();
  args.shift = shift.const_data_ptr();
  args.scale = scale.const_data_ptr();
  args.shift_stride = shift.stride(0);
  args.scale_stride = scale.stride(0);
  args.length = x.size(1);
  args.width = x.size(2);
  args.eps = eps;
  args.dtype = dtype_of(op, "x", x);
  launch(op, ECGTWIN_KERNEL(modulated_norm, NormArgs), args, x.size(0) * x.size(1), x.size(2), x);
}

Tensor modulated_layer_norm(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps) {
  const char* op = "modulated_layer_norm";
  check_rows(op, "x", x);
  const Tensor rows = x.contiguous();
  Tensor out = empty_rows(x);
  NormArgs args{};
  args.out = out.data_ptr();
  run_forward(op, args, rows, modulation(op, "shift", shift, x), modulation(op, "scale", scale, x), eps);
  return out;
}

std::tuple<Tensor, Tensor> gated_residual(const Tensor& x, const Tensor& gate, const Tensor& y, const Tensor& shift,
                                          const Tensor& scale, double eps) {
  const char* op = "gated_residual";
  check_rows(op, "x", x);
  check_like(op, "y", y, x.sizes(), x);
  const Tensor rows = x.contiguous(), added = y.contiguous(), gates = modulation(op, "gate", gate, x);
  Tensor sum = empty_rows(x), out = empty_rows(x);
  NormArgs args{};
  args.gate = gates.const_data_ptr();
  args.gate_stride = gates.stride(0);
  args.y = added.const_data_ptr();
  args.sum = sum.data_ptr();
  args.out = out.data_ptr();
  run_forward(op, args, rows, modulation(op, "shift", shift, x), modulation(op, "scale", scale, x), eps);
  return {sum, out};
}

// The column sums of a backward: partial ones by chunk of rows, filled by the kernel, then their total.
class ColumnSum {
 public:
  ColumnSum(const Tensor& x, int64_t chunks)
      : partial_(at::empty({x.size(0), chunks, x.size(2)}, x.options().dtype(compute_type(x)))),
        dtype_(x.scalar_type()) {}
  void* data() { return partial_.data_ptr(); }
  Tensor total() const { return at::sum(partial_, {1}).to(dtype_); }

 private:
  Tensor partial_;
  at::ScalarType dtype_;
};

int64_t chunks_of(const Tensor& x) { return (x.size(1) + kChunkRows - 1) / kChunkRows; }

void run_backward(const char* op, NormGradArgs args, const Tensor& grad, const Tensor& sum, const Tensor& scale,
                  double eps) {
  args.grad_norm = grad.const_data_ptr();
  args.sum = sum.const_data_ptr();
  args.scale = scale.const_data_ptr();
  args.scale_stride = scale.stride(0);
  args.length = sum.size(1);
  args.width = sum.size(2);
  args.chunks = chunks_of(sum);
  args.eps = eps;
  args.dtype = dtype_of(op, "the normed tensor", sum);
  launch(op, ECGTWIN_KERNEL(modulated_norm_backward, NormGradArgs), args, sum.size(0) * args.chunks,
         kChunkRows * sum.size(2), sum);
}

std::tuple<Tensor, Tensor, Tensor> modulated_layer_norm_backward(const Tensor& grad, const Tensor& x,
                                                                 const Tensor& scale, double eps) {
  const char* op = "modulated_layer_norm_backward";
  check_rows(op, "x", x);
  check_like(op, "grad", grad, x.sizes(), x);
  const Tensor rows = x.contiguous(), grads = grad.contiguous();
  Tensor grad_x = empty_rows(x);
  ColumnSum shift(x, chunks_of(x)), scales(x, chunks_of(x));
  NormGradArgs args{};
  args.grad_x = grad_x.data_ptr();
  args.partial_shift = shift.data();
  args.partial_scale = scales.data();
  run_backward(op, args, grads, rows, modulation(op, "scale", scale, x), eps);
  return {grad_x, shift.total(), scales.total()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gated_residual_backward(const Tensor& grad_sum,
                                                                           const Tensor& grad_norm, const Tensor& sum,
                                                                           const Tensor& gate, const Tensor& y,
                                                                           const Tensor& scale, double eps) {
  const char* op = "gated_residual_backward";
  check_rows(op, "sum", sum);
  check_like(op, "grad_sum", grad_sum, sum.sizes(), sum);
  check_like(op, "grad_norm", grad_norm, sum.sizes(), sum);
  check_like(op, "y", y, sum.sizes(), sum);
  const Tensor rows = sum.contiguous(), added = y.contiguous(), gates = modulation(op, "gate", gate, sum);
  const Tensor grads_sum = grad_sum.contiguous(), grads_norm = grad_norm.contiguous();
  Tensor grad_x = empty_rows(sum), grad_y = empty_rows(sum);
  ColumnSum gate_sum(sum, chunks_of(sum)), shift(sum, chunks_of(sum)), scales(sum, chunks_of(sum));
  NormGradArgs args{};
  args.grad_sum = grads_sum.const_data_ptr();
  args.gate = gates.const_data_ptr();
  args.gate_stride = gates.stride(0);
  args.y = added.const_data_ptr();
  args.grad_x = grad_x.data_ptr();
  args.grad_y = grad_y.data_ptr();
  args.partial_gate = gate_sum.data();
  args.partial_shift = shift.data();
  args.partial_scale = scales.data();
  run_backward(op, args, grads_norm, rows, modulation(op, "scale", scale, sum), eps);
  return {grad_x, gate_sum.total(), grad_y, shift.total(), scales.total()};
}

}  // namespace

ECGTWIN_IMPL({
  m.impl("modulated_layer_norm", &modulated_layer_norm);
  m.impl("modulated_layer_norm_backward", &modulated_layer_norm_backward);
  m.impl("gated_residual", &gated_residual);
  m.impl("gated_residual_backward", &gated_residual_backward);
})

}  // namespace ecgtwin
