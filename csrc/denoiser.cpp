// cpu_denoise: checks, memory and threads of whole reverse diffusions on the CPU.
#include "denoiser.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <vector>

#include "transformer_binding.h"
#include "workers.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;

constexpr void (*kDenoise[kCpuLevels])(const DenoiserArgs&, int64_t) = ECGTWIN_ENGINE(denoise);

Tensor denoise(TensorList network, TensorList blocks, TensorList keys, TensorList scores, TensorList values,
               const Tensor& condition_of, const Tensor& time, const Tensor& base, const Tensor& base_of,
               const std::optional<Tensor>& x_init, const std::optional<Tensor>& noise, const Tensor& coefficients,
               int64_t heads, int64_t ratio, int64_t length, bool bfloat16, int64_t seed, int64_t first_index,
               int64_t group, int64_t edit_step, const std::optional<Tensor>& token_counts,
               const std::optional<Tensor>& edit_scales, int64_t threads, Tensor status) {
  const char* op = "cpu_denoise";
  const ProductLayout layout = layout_for(op, bfloat16);
  DenoiserArgs a{};
  TensorReader read(op, "network", network);
  a.net = read_embedding(op, network, read, heads, ratio, length);
  const std::vector<TransformerBlock> own_blocks = read_blocks(op, blocks, a.net, layout, true);
  a.net.blocks = own_blocks.data();
  a.net.depth = static_cast<int64_t>(own_blocks.size());
  const Transformer& net = a.net;
  a.out_weight = read.next<float>(net.channels * net.width);
  a.out_bias = read.next<float>(net.channels);
  a.modulation = read.next<uint32_t>(net.modulations() * net.width / layout.pack);
  a.modulation_bias = read.next<float>(net.modulations());

  const std::vector<TransformerCondition> conditions = read_conditions(op, keys, scores, values, net, layout);
  const int64_t tokens = most_tokens(conditions);
  a.conditions = conditions.data();
  const int64_t batch = condition_of.numel();
  a.steps = time.size(0);
  const int64_t record = net.channels * length;
  a.condition_of = indices(op, "condition_of", condition_of, batch, static_cast<int64_t>(conditions.size()));
  a.base_of = indices(op, "base_of", base_of, batch, base.size(0));
  TORCH_CHECK(group >= 1 && batch % group == 0, op, ": group must be at least 1 and divide the ", batch,
              " records, but it is ", group);
  for (int64_t i = 0; i < batch; ++i)
    TORCH_CHECK(a.base_of[i] == a.base_of[i / group * group], op, ": record ", i,
                " must have the base vector of the first of its group");
  a.group = group;
  a.edit_step = edit_step;
  if (group > 1) {
    TORCH_CHECK(token_counts && edit_scales, op, ": groups need token_counts and edit_scales");
    a.token_counts = data_of<int64_t>(op, "token_counts", *token_counts, batch);
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t room = std::max<int64_t>(1, conditions[a.condition_of[i]].tokens);
      TORCH_CHECK(a.token_counts[i] >= 1 && a.token_counts[i] <= room, op, ": token_counts must be 1 to ", room,
                  " for record ", i, ", but it is ", a.token_counts[i]);
    }
    a.edit_scales = data_of<float>(op, "edit_scales", *edit_scales, batch);
  }
  a.time = data_of<float>(op, "time", time, a.steps * net.width);
  a.base = data_of<float>(op, "base", base, base.size(0) * net.width);
  a.x_init = x_init ? data_of<float>(op, "x_init", *x_init, batch * record) : nullptr;
  a.noise = noise ? data_of<float>(op, "noise", *noise, a.steps * batch * record) : nullptr;
  a.coefficients = data_of<float>(op, "coefficients", coefficients, a.steps * kCoefficients);
  data_of<int64_t>(op, "status", status, 2);
  a.status = status.data_ptr<int64_t>();
  a.seed = static_cast<uint64_t>(seed);
  a.first_index = static_cast<uint64_t>(first_index);
  a.bfloat16 = bfloat16;
  Tensor latents = at::empty({batch, net.channels, length}, time.options());
  if (batch == 0) return latents;
  a.latents = latents.data_ptr<float>();

  TORCH_CHECK(threads > 0, op, ": threads must be at least 1, but it is ", threads);
  const Shares shares = share_records(batch / group, threads, length / layout.tile);
  const int64_t steps = narrow_layout(cpu_level(), bfloat16).tile;
  const HiredCrew<DenoiserTeam, DenoiserScratch> hired(
      batch / group, shares, [&](DenoiserTeam& team, Arena& arena) { team.carve(arena, net, layout, steps); },
      [&](DenoiserScratch& own, Arena& arena) { own.carve(arena, net, layout, tokens, group); });
  a.crew = hired.crew();
  const auto kernel = kDenoise[static_cast<int>(cpu_level())];
  hired.run([&](int64_t thread) { kernel(a, thread); }, &a.status[1]);
  return latents;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_denoise", &denoise); }

}  // namespace ecgtwin
