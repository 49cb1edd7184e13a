// cpu_denoise: checks, memory and threads of whole reverse diffusions on the CPU.
#include "denoiser.h"

#include <ATen/ops/empty.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine_binding.h"
#include "workers.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kBlockTensors = 15;

constexpr void (*kDenoise[kCpuLevels])(const DenoiserArgs&, int64_t) = ECGTWIN_ENGINE(denoise);

std::vector<TransformerBlock> read_blocks(const char* op, TensorList tensors, int64_t width, int64_t ratio,
                                          int64_t pack) {
  const int64_t matrix = width * width / pack;
  TensorReader read(op, "blocks", tensors);
  std::vector<TransformerBlock> blocks(tensors.size() / kBlockTensors);
  for (TransformerBlock& block : blocks) {
    block.query = read.next<uint32_t>(matrix);
    block.key = read.next<uint32_t>(matrix);
    block.value = read.next<uint32_t>(matrix);
    block.output = read.next<uint32_t>(matrix);
    block.cross_query = read.next<uint32_t>(matrix);
    block.up = read.next<uint32_t>(ratio * matrix);
    block.down = read.next<uint32_t>(ratio * matrix);
    block.query_bias = read.next<float>(width);
    block.output_bias = read.next<float>(width);
    block.cross_query_bias = read.next<float>(width);
    block.query_scale = read.next<float>(width);
    block.query_shift = read.next<float>(width);
    block.cross_bias = read.next<float>(width);
    block.up_bias = read.next<float>(ratio * width);
    block.down_bias = read.next<float>(width);
  }
  TORCH_CHECK(read.done(), op, ": blocks must have ", kBlockTensors, " tensors a block, but it has ", tensors.size());
  return blocks;
}

std::vector<TransformerCondition> read_conditions(const char* op, TensorList keys, TensorList values, TensorList bias,
                                                  const Transformer& net, const ProductLayout& layout) {
  TORCH_CHECK(keys.size() == values.size() && keys.size() == bias.size(), op,
              ": keys, values and bias must have one tensor a condition, but they have ", keys.size(), ", ",
              values.size(), " and ", bias.size());
  std::vector<TransformerCondition> conditions(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string index = "[" + std::to_string(i) + "]";
    TransformerCondition& c = conditions[i];
    c.tokens = bias[i].numel();
    TORCH_CHECK(c.tokens % layout.rows == 0, op, ": bias", index, " must have a multiple of ", layout.rows,
                " elements, but it has ", c.tokens);
    const int64_t values_size = c.tokens ? net.width * net.heads * c.tokens / layout.pack : net.width;
    c.bias = data_of<float>(op, "bias" + index, bias[i], c.tokens);
    c.keys = data_of<uint32_t>(op, "keys" + index, keys[i], net.depth * c.tokens * net.width / layout.pack);
    c.values = c.tokens ? data_of<uint32_t>(op, "values" + index, values[i], net.depth * values_size)
                        : reinterpret_cast<const uint32_t*>(
                              data_of<float>(op, "values" + index, values[i], net.depth * values_size));
  }
  return conditions;
}

const int64_t* indices(const char* op, const char* name, const Tensor& tensor, int64_t batch, int64_t limit) {
  const int64_t* values = data_of<int64_t>(op, name, tensor, batch);
  for (int64_t i = 0; i < batch; ++i)
    TORCH_CHECK(values[i] >= 0 && values[i] < limit, op, ": ", name, " must be in 0..", limit - 1, ", but one is ",
                values[i]);
  return values;
}

Tensor denoise(TensorList network, TensorList blocks, TensorList keys, TensorList values, TensorList bias,
               const Tensor& condition_of, const Tensor& time, const Tensor& base, const Tensor& base_of,
               const std::optional<Tensor>& x_init, const std::optional<Tensor>& noise, const Tensor& coefficients,
               int64_t heads, int64_t ratio, int64_t length, bool bfloat16, int64_t seed, int64_t first_index,
               int64_t threads, Tensor status) {
  const char* op = "cpu_denoise";
  const ProductLayout layout = layout_for(op, bfloat16);
  DenoiserArgs a{};
  Transformer& net = a.net;
  TORCH_CHECK(network.size() >= 2, op, ": network must have more than ", network.size(), " tensors");
  net.width = network[1].numel();
  net.channels = network[0].numel() / net.width;
  net.heads = heads;
  net.ratio = ratio;
  net.length = length;
  net.depth = static_cast<int64_t>(blocks.size()) / kBlockTensors;
  net.query_factor = kQueryFactor / std::sqrt(static_cast<float>(net.head_size()));
  TORCH_CHECK(net.width % heads == 0 && net.head_size() % kHeadMultiple == 0 && length % kLengthMultiple == 0, op,
              ": the width of a head must be a multiple of ", kHeadMultiple, " and the length one of ", kLengthMultiple,
              ", but width ", net.width, " has ", heads, " heads and the length is ", length);
  const std::vector<TransformerBlock> own_blocks = read_blocks(op, blocks, net.width, ratio, layout.pack);
  net.blocks = own_blocks.data();

  TensorReader read(op, "network", network);
  net.in_weight = read.next<float>(net.width * net.channels);
  net.in_bias = read.next<float>(net.width);
  net.cosine = read.next<float>(net.width / 2 * length);
  net.sine = read.next<float>(net.width / 2 * length);
  a.out_weight = read.next<float>(net.channels * net.width);
  a.out_bias = read.next<float>(net.channels);
  a.modulation = read.next<uint32_t>(net.modulations() * net.width / layout.pack);
  a.modulation_bias = read.next<float>(net.modulations());

  const std::vector<TransformerCondition> conditions = read_conditions(op, keys, values, bias, net, layout);
  int64_t tokens = 0;
  for (const TransformerCondition& condition : conditions) tokens = std::max(tokens, condition.tokens);
  a.conditions = conditions.data();
  a.batch = condition_of.numel();
  a.steps = time.size(0);
  const int64_t record = net.channels * length;
  a.condition_of = indices(op, "condition_of", condition_of, a.batch, static_cast<int64_t>(conditions.size()));
  a.base_of = indices(op, "base_of", base_of, a.batch, base.size(0));
  a.time = data_of<float>(op, "time", time, a.steps * net.width);
  a.base = data_of<float>(op, "base", base, base.size(0) * net.width);
  a.x_init = x_init ? data_of<float>(op, "x_init", *x_init, a.batch * record) : nullptr;
  a.noise = noise ? data_of<float>(op, "noise", *noise, a.steps * a.batch * record) : nullptr;
  a.coefficients = data_of<float>(op, "coefficients", coefficients, a.steps * kCoefficients);
  data_of<int64_t>(op, "status", status, 2);
  a.status = status.data_ptr<int64_t>();
  a.seed = static_cast<uint64_t>(seed);
  a.first_index = static_cast<uint64_t>(first_index);
  a.bfloat16 = bfloat16;
  Tensor latents = at::empty({a.batch, net.channels, length}, time.options());
  if (a.batch == 0) return latents;
  a.latents = latents.data_ptr<float>();

  TORCH_CHECK(threads > 0, op, ": threads must be at least 1, but it is ", threads);
  const Shares shares = share_records(a.batch, threads, length / layout.tile);
  threads = std::min(threads, shares.alone ? threads : shares.team_size * (a.batch - shares.alone));
  int64_t next = 0;
  a.next = &next;
  a.alone = shares.alone;
  a.team_size = shares.team_size;
  std::vector<DenoiserTeam> single(shares.alone ? threads : 0), joint(shares.teams);
  std::vector<DenoiserScratch> scratch(threads);
  std::unique_ptr<HugeMemory> memory;
  allocate(memory, [&](Arena& arena) {
    for (DenoiserScratch& own : scratch) own = DenoiserScratch::carve(arena, net, layout, tokens);
    for (DenoiserTeam& team : single) team.carve(arena, net, layout), team.team.size = 1;
    for (DenoiserTeam& team : joint) team.carve(arena, net, layout), team.team.size = shares.team_size;
  });
  a.scratch = scratch.data();
  a.single = single.data();
  a.joint = joint.data();
  const auto kernel = kDenoise[static_cast<int>(cpu_level())];
  run_threads(threads, [&](int64_t thread) { kernel(a, thread); });
  return latents;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_denoise", &denoise); }

}  // namespace ecgtwin
