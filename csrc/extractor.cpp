// cpu_extract: checks, memory and threads of the Individual Base Extractor on the CPU.
#include "extractor.h"

#include <ATen/ops/empty.h>

#include <memory>
#include <vector>

#include "transformer_binding.h"
#include "workers.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;

constexpr void (*kExtract[kCpuLevels])(const ExtractorArgs&, int64_t) = ECGTWIN_ENGINE(extract);

Tensor extract(TensorList network, TensorList blocks, TensorList keys, TensorList scores, TensorList values,
               const Tensor& condition_of, const Tensor& latents, int64_t heads, int64_t ratio, bool bfloat16,
               int64_t threads) {
  const char* op = "cpu_extract";
  const ProductLayout layout = layout_for(op, bfloat16);
  check_dim(op, "latents", latents, 3, "(batch, channels, length)");
  TORCH_CHECK(threads > 0, op, ": threads must be at least 1, but it is ", threads);
  const int64_t channels = latents.size(1), length = latents.size(2);
  TensorReader read(op, "network", network);
  ExtractorArgs a{};
  a.net = read_embedding(op, network, read, heads, ratio, length);
  const std::vector<TransformerBlock> own_blocks = read_blocks(op, blocks, a.net, layout, false);
  a.net.blocks = own_blocks.data();
  a.net.depth = static_cast<int64_t>(own_blocks.size());
  TORCH_CHECK(channels == a.net.channels, op, ": latents must have ", a.net.channels, " channels, but they have ", channels);
  a.modulation = read.next<float>(a.net.modulations());
  const std::vector<TransformerCondition> conditions = read_conditions(op, keys, scores, values, a.net, layout);
  a.conditions = conditions.data();
  a.batch = latents.size(0);
  a.condition_of = indices(op, "condition_of", condition_of, a.batch, static_cast<int64_t>(conditions.size()));
  a.latents = data_of<float>(op, "latents", latents, a.batch * channels * length);
  a.bfloat16 = bfloat16;
  Tensor base_vectors = at::empty({a.batch, a.net.width}, latents.options());
  if (a.batch == 0) return base_vectors;
  a.base_vectors = base_vectors.data_ptr<float>();

  const Shares shares = share_records(a.batch, threads, length / layout.tile);
  int64_t next = 0;
  a.next = &next;
  a.alone = shares.alone;
  a.team_size = shares.team_size;
  std::vector<ExtractorTeam> single(shares.alone ? shares.threads : 0), joint(shares.teams);
  std::vector<TransformerScratch> scratch(shares.threads);
  std::unique_ptr<HugeMemory> memory;
  allocate(memory, [&](Arena& arena) {
    for (auto& own : scratch) own = TransformerScratch::carve(arena, a.net, layout, most_tokens(conditions));
    for (ExtractorTeam& team : single) team.carve(arena, a.net, layout), team.team.size = 1;
    for (ExtractorTeam& team : joint) team.carve(arena, a.net, layout), team.team.size = shares.team_size;
  });
  a.scratch = scratch.data();
  a.single = single.data();
  a.joint = joint.data();
  const auto kernel = kExtract[static_cast<int>(cpu_level())];
  run_threads(shares.threads, [&](int64_t thread) { kernel(a, thread); });
  return base_vectors;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_extract", &extract); }

}  // namespace ecgtwin
