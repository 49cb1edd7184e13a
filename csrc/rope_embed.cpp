// rope_embed and its gradient: checks, the table of angles, outputs and launches for CPU and CUDA.
#include "rope_embed.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;

struct Angles {
  Tensor cosine, sine;  // (length, width / 2)
};

Angles make_angles(int64_t length, int64_t width, const at::TensorOptions& options) {
  const int64_t half = width / 2;
  Tensor cosine = at::empty({length, half}, at::kDouble), sine = at::empty({length, half}, at::kDouble);
  double* cosines = cosine.mutable_data_ptr<double>();
  double* sines = sine.mutable_data_ptr<double>();
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    for (int64_t position = 0; position < length; ++position) {
      cosines[position * half + i] = std::cos(static_cast<double>(position) * frequency);
      sines[position * half + i] = std::sin(static_cast<double>(position) * frequency);
    }
  }
  return {cosine.to(options), sine.to(options)};
}

// Tables are kept, since making one costs more than using it: on a CPU, of many shapes, only the latest few; on a GPU
// all, since a captured graph may go on reading them.
Angles angles(int64_t length, int64_t width, const Tensor& x) {
  static std::mutex mutex;
  // Never destroyed: at exit, CUDA may be gone before it.
  static auto* by_device = new std::array<std::map<std::string, Angles>, 2>();
  const at::TensorOptions options = x.options().dtype(compute_type(x));
  const std::string key = c10::str(length, " ", width, " ", options.dtype(), " ", x.device());
  const std::lock_guard<std::mutex> lock(mutex);
  auto& tables = (*by_device)[x.is_cuda()];
  const auto found = tables.find(key);
  if (found != tables.end()) return found->second;
  if (!x.is_cuda() && tables.size() >= 16) tables.clear();
  return tables.emplace(key, make_angles(length, width, options)).first->second;
}

void check_arguments(const char* op, const Tensor& x, const Tensor& weight) {
  check_dim(op, "x", x, 3, "(batch, channels, length)");
  check_dim(op, "weight", weight, 2, "(width, channels)");
  TORCH_CHECK(weight.size(0) > 0 && weight.size(0) % 2 == 0, op,
              ": the width, weight.shape[0], must be even and at least 2, but it is ", weight.size(0));
  check_like(op, "weight", weight, {weight.size(0), x.size(1)}, x);
}

Tensor transposed(const Tensor& weight) { return weight.t().to(compute_type(weight)).contiguous(); }

Tensor rope_embed_forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const char* op = "rope_embed";
  check_arguments(op, x, weight);
  check_like(op, "bias", bias, {weight.size(0)}, x);
  const int64_t batch = x.size(0), channels = x.size(1), length = x.size(2), width = weight.size(0);
  const Tensor latent = x.contiguous(), columns = transposed(weight);
  const Tensor offset = bias.to(compute_type(bias)).contiguous();
  const Angles table = angles(length, width, x);
  Tensor out = at::empty({batch, length, width}, x.options());
  RopeArgs args{};
  args.x = latent.const_data_ptr();
  args.weight = columns.const_data_ptr();
  args.bias = offset.const_data_ptr();
  args.cosine = table.cosine.const_data_ptr();
  args.sine = table.sine.const_data_ptr();
  args.out = out.data_ptr();
  args.channels = channels;
  args.length = length;
  args.width = width;
  args.dtype = dtype_of(op, "x", x);
  launch(op, ECGTWIN_KERNEL(rope_embed, RopeArgs), args, batch * length, width, x);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> rope_embed_gradient(const Tensor& grad, const Tensor& x, const Tensor& weight) {
  const char* op = "rope_embed_backward";
  check_arguments(op, x, weight);
  const int64_t batch = x.size(0), channels = x.size(1), length = x.size(2), width = weight.size(0);
  check_like(op, "grad", grad, {batch, length, width}, x);
  const int64_t chunks = (length + kChunkPositions - 1) / kChunkPositions;
  const Tensor rows = grad.contiguous(), latent = x.contiguous(), columns = transposed(weight);
  const Angles table = angles(length, width, x);
  const at::TensorOptions compute = x.options().dtype(compute_type(x));
  Tensor grad_x = at::empty({batch, channels, length}, compute);
  Tensor partial = at::empty({batch, chunks, channels + 1, width}, compute);
  RopeGradArgs args{};
  args.grad = rows.const_data_ptr();
  args.x = latent.const_data_ptr();
  args.weight = columns.const_data_ptr();
  args.cosine = table.cosine.const_data_ptr();
  args.sine = table.sine.const_data_ptr();
  args.grad_x = grad_x.data_ptr();
  args.partial = partial.data_ptr();
  args.channels = channels;
  args.length = length;
  args.width = width;
  args.chunks = chunks;
  args.dtype = dtype_of(op, "x", x);
  launch(op, ECGTWIN_KERNEL(rope_embed_backward, RopeGradArgs), args, batch * chunks, kChunkPositions * width, x);
  const Tensor total = at::sum(partial, {0, 1}).to(x.scalar_type());
  return {grad_x.to(x.scalar_type()), total.slice(0, 0, channels).t().contiguous(), total.select(0, channels).clone()};
}

}  // namespace

ECGTWIN_IMPL({
  m.impl("rope_embed", &rope_embed_forward);
  m.impl("rope_embed_backward", &rope_embed_gradient);
})

}  // namespace ecgtwin
