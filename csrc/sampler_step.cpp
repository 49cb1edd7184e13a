// sampler_step: checks, outputs and launch for CPU and CUDA.
#include "sampler_step.h"

#include <ATen/ops/empty_like.h>

#include <optional>
#include <tuple>
#include <utility>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

// What both forms are given, contiguous; `noise` is undefined where it is drawn.
SamplerArgs sized(const char* op, const Tensor& x, const Tensor& eps, const Tensor& noise, const Tensor& coefficients) {
  SamplerArgs args{};
  args.x = x.const_data_ptr();
  args.eps = eps.const_data_ptr();
  args.noise = noise.defined() ? noise.const_data_ptr() : nullptr;
  args.coefficients = coefficients.const_data_ptr<float>();
  args.elements = x.size(0) > 0 ? x.numel() / x.size(0) : 0;
  args.blocks = (args.elements + kBlockElements - 1) / kBlockElements;
  args.dtype = dtype_of(op, "x", x);
  return args;
}

void run(const char* op, const SamplerArgs& args, const Tensor& x) {
  launch(op, ECGTWIN_KERNEL(sampler_step, SamplerArgs), args, x.size(0) * args.blocks, kBlockElements, x);
}

std::tuple<Tensor, Tensor> sampler_step_forward(const Tensor& x, const Tensor& eps,
                                                const std::optional<Tensor>& x0_prev,
                                                const std::optional<Tensor>& noise, const Tensor& coefficients,
                                                int64_t seed, int64_t first_index, int64_t step) {
  const char* op = "sampler_step";
  TORCH_CHECK(x.dim() >= 1, op, ": x must be (batch, ...), but it is a scalar");
  check_like(op, "eps", eps, x.sizes(), x);
  if (x0_prev) check_like(op, "x0_prev", *x0_prev, x.sizes(), x);
  if (noise) check_like(op, "noise", *noise, x.sizes(), x);
  check_like(op, "coefficients", coefficients, {kCoefficients}, x, at::kFloat);
  TORCH_CHECK(step >= 0 && step <= 0xFFFFFFFF, op, ": step must be in 0..4294967295, but it is ", step);
  TORCH_CHECK(first_index >= 0, op, ": first_index must be 0 or more, but it is ", first_index);

  const Tensor state = x.contiguous(), predicted_noise = eps.contiguous(), row = coefficients.contiguous();
  const Tensor previous = x0_prev ? x0_prev->contiguous() : Tensor();
  const Tensor given = noise ? noise->contiguous() : Tensor();
  Tensor next = at::empty_like(x, at::MemoryFormat::Contiguous), x0 = at::empty_like(next);
  SamplerArgs args = sized(op, state, predicted_noise, given, row);
  args.x0_prev = x0_prev ? previous.const_data_ptr() : nullptr;
  args.next = next.data_ptr();
  args.x0 = x0.data_ptr();
  args.seed = static_cast<uint64_t>(seed);
  args.first_index = static_cast<uint64_t>(first_index);
  args.step = static_cast<uint32_t>(step);
  run(op, args, x);
  return {next, x0};
}

void sampler_step_in_place(const Tensor& x, const Tensor& x0, const Tensor& eps, const std::optional<Tensor>& noise,
                           const Tensor& coefficients, const Tensor& keys) {
  const char* op = "sampler_step_";
  TORCH_CHECK(x.dim() >= 1, op, ": x must be (batch, ...), but it is a scalar");
  check_like(op, "x0", x0, x.sizes(), x);
  check_like(op, "eps", eps, x.sizes(), x);
  if (noise) check_like(op, "noise", *noise, x.sizes(), x);
  check_dim(op, "coefficients", coefficients, 2, "(steps, 8)");
  check_like(op, "coefficients", coefficients, {coefficients.size(0), kCoefficients}, x, at::kFloat);
  check_like(op, "keys", keys, {3}, x, at::kLong);
  using Named = std::pair<const char*, const Tensor&>;
  for (const auto& [name, tensor] :
       {Named("x", x), Named("x0", x0), Named("coefficients", coefficients), Named("keys", keys)})
    TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous");

  const Tensor predicted_noise = eps.contiguous(), given = noise ? noise->contiguous() : Tensor();
  SamplerArgs args = sized(op, x, predicted_noise, given, coefficients);
  args.x0_prev = x0.const_data_ptr();
  args.keys = keys.const_data_ptr<int64_t>();
  args.next = x.data_ptr();
  args.x0 = x0.data_ptr();
  run(op, args, x);
}

}  // namespace

ECGTWIN_IMPL({
  m.impl("sampler_step", &sampler_step_forward);
  m.impl("sampler_step_", &sampler_step_in_place);
})

}  // namespace ecgtwin
