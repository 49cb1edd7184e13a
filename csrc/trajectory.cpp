// cuda_trajectory and cuda_linear: checks and launches of what the backend "cuda" runs.
#ifdef ECGTWIN_CUDA
#include "trajectory.h"

#include <ATen/ops/empty.h>

#include <optional>

#include "binding.h"
#include "linear.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;

// Data of a contiguous tensor that must have this type, and be on the device of x.
const void* on_device(const char* op, const char* name, const Tensor& tensor, at::ScalarType dtype, const Tensor& x) {
  TORCH_CHECK(tensor.device() == x.device() && tensor.is_contiguous() && tensor.scalar_type() == dtype, op, ": ", name,
              " must be a contiguous ", dtype, " tensor on ", x.device(), ", but it is ", tensor.scalar_type(), " on ",
              tensor.device(), " with strides ", tensor.strides());
  return tensor.const_data_ptr();
}

const float* floats(const char* op, const char* name, const Tensor& tensor, int64_t numel, const Tensor& x) {
  TORCH_CHECK(tensor.numel() == numel, op, ": ", name, " must have ", numel, " elements, but it has ", tensor.numel());
  return static_cast<const float*>(on_device(op, name, tensor, at::kFloat, x));
}

const int64_t* integers(const char* op, const char* name, const Tensor& tensor, int64_t numel, const Tensor& x) {
  TORCH_CHECK(tensor.numel() == numel, op, ": ", name, " must have ", numel, " elements, but it has ", tensor.numel());
  return static_cast<const int64_t*>(on_device(op, name, tensor, at::kLong, x));
}

void denoise(TensorList network, const Tensor& modulation, const Tensor& base_of, TensorList conditions,
             const Tensor& coefficients, const std::optional<Tensor>& noise, Tensor latents, Tensor clean, Tensor taken,
             int64_t head, int64_t seed, int64_t first_index, int64_t first_step, bool draws, int64_t blocks) {
  const char* op = "cuda_trajectory";
  TORCH_CHECK(network.size() == 8 && conditions.size() == 5, op, ": network must have 8 tensors and conditions 5, but ",
              "they have ", network.size(), " and ", conditions.size());
  check_dim(op, "latents", latents, 3, "(records, channels, length)");
  check_dim(op, "keys", conditions[0], 4, "(conditions, depth, heads, tokens * head)");
  TrajectoryArgs a{};
  a.records = latents.size(0);
  a.channels = latents.size(1);
  a.length = latents.size(2);
  a.width = network[3].numel();
  a.head = head;
  a.depth = conditions[0].size(1);
  a.steps = coefficients.size(0);
  TORCH_CHECK(head > 0 && a.width % head == 0 && conditions[0].size(2) == a.width / head, op, ": keys must have ",
              a.width, " / ", head, " heads, but they have ", conditions[0].size(2));
  a.tokens = conditions[0].size(3) / head;
  const int64_t known = conditions[0].size(0), rows = known * a.depth * a.width / head * a.tokens;
  a.units = network[1].numel() / a.depth - 3 * a.width;
  TORCH_CHECK(network[0].numel() == a.depth * a.width * (6 * a.width + 2 * a.units), op, ": network[0] must have ",
              a.depth * a.width * (6 * a.width + 2 * a.units), " elements, but it has ", network[0].numel());
  TORCH_CHECK(conditions[1].sizes() == conditions[0].sizes(), op, ": values must have the shape of keys, ",
              conditions[0].sizes(), ", but it is ", conditions[1].sizes());
  check_dim(op, "modulation", modulation, 6, "(bases, steps, depth, 2, 4, width)");

  a.weights = on_device(op, "network[0]", network[0], at::kBFloat16, latents);
  a.biases = floats(op, "network[1]", network[1], a.depth * (3 * a.width + a.units), latents);
  a.embed_weight = floats(op, "network[2]", network[2], a.channels * a.width, latents);
  a.embed_bias = floats(op, "network[3]", network[3], a.width, latents);
  a.cosine = floats(op, "network[4]", network[4], a.length * a.width / 2, latents);
  a.sine = floats(op, "network[5]", network[5], a.length * a.width / 2, latents);
  a.final_weight = floats(op, "network[6]", network[6], a.channels * a.width, latents);
  a.final_bias = floats(op, "network[7]", network[7], a.channels, latents);
  const int64_t modulated = modulation.size(0) * a.steps * a.depth * 8 * a.width;
  a.modulation = floats(op, "modulation", modulation, modulated, latents);
  a.base_of = integers(op, "base_of", base_of, a.records, latents);
  a.keys = on_device(op, "keys", conditions[0], at::kBFloat16, latents);
  a.values = on_device(op, "values", conditions[1], at::kBFloat16, latents);
  a.score_bias = floats(op, "score_bias", conditions[2], rows, latents);
  a.counts = integers(op, "counts", conditions[3], known, latents);
  a.condition_of = integers(op, "condition_of", conditions[4], a.records, latents);
  a.coefficients = floats(op, "coefficients", coefficients, a.steps * 8, latents);
  const int64_t elements = latents.numel();
  a.noise = noise ? floats(op, "noise", *noise, a.steps * elements, latents) : nullptr;
  floats(op, "latents", latents, elements, latents);
  floats(op, "clean", clean, elements, latents);
  TORCH_CHECK(taken.numel() == 1, op, ": taken must have 1 element, but it has ", taken.numel());
  on_device(op, "taken", taken, at::kInt, latents);
  a.latents = latents.data_ptr<float>();
  a.clean = clean.data_ptr<float>();
  a.taken = taken.data_ptr<int32_t>();
  a.seed = static_cast<uint64_t>(seed);
  a.first_index = static_cast<uint64_t>(first_index);
  a.first_step = static_cast<uint32_t>(first_step);
  a.draws = draws;
  if (a.records == 0) return;
  TORCH_CHECK(a.records < INT32_MAX, op, ": there must be fewer than 2^31 records, but there are ", a.records);
  TORCH_CHECK(blocks > 0, op, ": blocks must be at least 1, but it is ", blocks);
  launch(op, ECGTWIN_CUDA_ONLY(trajectory, TrajectoryArgs), a, blocks, 1, latents);
}

Tensor linear_forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const char* op = "cuda_linear";
  check_dim(op, "x", x, 3, "(groups, rows, inner)");
  const int64_t groups = std::max(x.size(0), weight.size(0));
  check_dim(op, "weight", weight, 3, "(groups, columns, inner)");
  TORCH_CHECK(weight.size(2) == x.size(2), op, ": weight must have ", x.size(2), " inner elements as x has, but it has ",
              weight.size(2));
  const auto stride = [&](const char* name, const Tensor& tensor, at::ScalarType dtype) {
    on_device(op, name, tensor, dtype, x);
    const int64_t own = tensor.size(0);
    TORCH_CHECK(own == 1 || own == groups, op, ": ", name, " must have 1 or ", groups, " groups, but it has ", own);
    return own == 1 ? 0 : tensor.stride(0);
  };
  LinearArgs a{};
  a.dtype = dtype_of(op, "x", x);
  TORCH_CHECK(a.dtype != Dtype::float64, op, ": x must be float32 or bfloat16, but it is ", x.scalar_type());
  a.x_stride = stride("x", x, x.scalar_type());
  a.weight_stride = stride("weight", weight, x.scalar_type());
  a.rows = x.size(1);
  a.columns = weight.size(1);
  a.inner = x.size(2);
  if (bias) {
    a.bias_stride = stride("bias", *bias, at::kFloat);
    TORCH_CHECK(bias->dim() == 2 && bias->size(1) == a.columns, op, ": bias must be (groups, ", a.columns,
                "), but its shape is ", bias->sizes());
    a.bias = bias->const_data_ptr<float>();
  }
  a.x = x.const_data_ptr();
  a.weight = weight.const_data_ptr();
  Tensor out = at::empty({groups, a.rows, a.columns}, x.options().dtype(at::kFloat));
  a.out = out.data_ptr<float>();
  launch(op, ECGTWIN_CUDA_ONLY(linear, LinearArgs), a, out.numel() > 0 ? groups : 0, 1, x);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CUDA, m) {
  m.impl("cuda_trajectory", &denoise);
  m.impl("cuda_linear", &linear_forward);
}

}  // namespace ecgtwin
#endif
