// sampler_step: checks, outputs and launch for CPU and CUDA.
#include "sampler_step.h"

#include <ATen/ops/empty_like.h>

#include <optional>
#include <tuple>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

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
  const int64_t batch = x.size(0);
  SamplerArgs args{};
  args.x = state.const_data_ptr();
  args.eps = predicted_noise.const_data_ptr();
  args.x0_prev = x0_prev ? previous.const_data_ptr() : nullptr;
  args.noise = noise ? given.const_data_ptr() : nullptr;
  args.coefficients = row.const_data_ptr<float>();
  args.next = next.data_ptr();
  args.x0 = x0.data_ptr();
  args.elements = batch > 0 ? x.numel() / batch : 0;
  args.blocks = (args.elements + kBlockElements - 1) / kBlockElements;
  args.seed = static_cast<uint64_t>(seed);
  args.first_index = static_cast<uint64_t>(first_index);
  args.step = static_cast<uint32_t>(step);
  args.dtype = dtype_of(op, "x", x);
  launch(op, ECGTWIN_KERNEL(sampler_step, SamplerArgs), args, batch * args.blocks, kBlockElements, x);
  return {next, x0};
}

}  // namespace

ECGTWIN_IMPL({ m.impl("sampler_step", &sampler_step_forward); })

}  // namespace ecgtwin
