// cpu_extract: checks, memory and threads of the Individual Base Extractor on the CPU.
#include "extractor.h"

#include <ATen/ops/empty.h>

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
  const int64_t batch = latents.size(0), tokens = most_tokens(conditions);
  a.condition_of = indices(op, "condition_of", condition_of, batch, static_cast<int64_t>(conditions.size()));
  a.latents = data_of<float>(op, "latents", latents, batch * channels * length);
  a.bfloat16 = bfloat16;
  Tensor base_vectors = at::empty({batch, a.net.width}, latents.options());
  if (batch == 0) return base_vectors;
  a.base_vectors = base_vectors.data_ptr<float>();

  const Shares shares = share_records(batch, threads, length / layout.tile);
  const HiredCrew<ExtractorTeam, TransformerScratch> hired(
      batch, shares, [&](ExtractorTeam& team, Arena& arena) { team.carve(arena, a.net, layout); },
      [&](TransformerScratch& own, Arena& arena) { own.carve(arena, a.net, layout, tokens); });
  a.crew = hired.crew();
  const auto kernel = kExtract[static_cast<int>(cpu_level())];
  int64_t stop = 0;  // not heeded: it is over in milliseconds
  hired.run([&](int64_t thread) { kernel(a, thread); }, &stop);
  return base_vectors;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_extract", &extract); }

}  // namespace ecgtwin
