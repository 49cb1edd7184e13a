// cpu_conditions: checks, places and threads of the tokens of conditions.
#include "conditions.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "engine_binding.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;
using Kernels = void (*const[kCpuLevels])(const ConditionArgs&, int64_t);

constexpr Kernels kProject = ECGTWIN_ENGINE(project_tokens), kAttend = ECGTWIN_ENGINE(attend_tokens);
constexpr float kFarBelowZero = -1e30f;

// Tasks 0..tasks on all threads, each with scratch of its own.
void run(const Kernels& kernels, const ConditionArgs& a, int64_t tasks, int64_t scratch) {
  const auto kernel = kernels[static_cast<int>(cpu_level())];
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const Tensor memory = at::empty({scratch}, at::kFloat);
    ConditionArgs own = a;
    own.scratch = memory.data_ptr<float>();
    for (int64_t task = begin; task < end; ++task) kernel(own, task);
  });
}

struct Results {
  std::vector<Tensor> keys, scores, values;
};

// Where the results of `count` tokens of each condition go: a token alone in its condition gives a constant.
Results allocate_results(const ConditionArgs& a, at::IntArrayRef counts, std::vector<TokenPlace>& places) {
  Results results;
  for (const int64_t count : counts) {
    const bool alone = count == 1;
    const int64_t tokens = alone ? 0 : (count + a.to.rows - 1) / a.to.rows * a.to.rows, rows = a.heads * tokens;
    Tensor keys = at::zeros({a.depth * a.width * rows / a.to.pack}, at::kInt);
    Tensor scores = at::full({a.depth, 2, a.heads, tokens}, kFarBelowZero, at::kFloat);
    Tensor values = alone ? at::empty({a.depth * a.width}, at::kFloat) : at::zeros_like(keys);
    scores.select(1, 0).zero_();
    for (int64_t i = 0; i < count; ++i)
      places.push_back(alone ? TokenPlace{nullptr, nullptr, nullptr, values.data_ptr<float>(), i, tokens}
                             : TokenPlace{keys.data_ptr(), values.data_ptr(), scores.data_ptr<float>(), nullptr, i, tokens});
    results.keys.push_back(std::move(keys));
    results.scores.push_back(std::move(scores));
    results.values.push_back(std::move(values));
  }
  return results;
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>, std::vector<Tensor>> conditions(
    TensorList weights, const Tensor& input, const std::optional<Tensor>& positions, const Tensor& score_bias,
    at::IntArrayRef counts, int64_t heads, double eps, bool bfloat16) {
  const char* op = "cpu_conditions";
  const ProductLayout own = layout_for(op, false);
  check_dim(op, "input", input, 2, "(tokens, features)");
  TORCH_CHECK(weights.size() == 9 || weights.size() == 11, op, ": weights must be 9 tensors, or 11 with norms, but they are ",
              weights.size());
  ConditionArgs a{};
  a.to = layout_for(op, bfloat16);
  a.tokens = input.size(0);
  a.features = input.size(1);
  a.width = weights[1].numel();
  a.heads = heads;
  TORCH_CHECK(heads > 0 && a.width % heads == 0 && a.width / heads % own.rows == 0, op,
              ": the width of a head must be a multiple of ", own.rows, ", but width ", a.width, " has ", heads, " heads");
  a.depth = weights[8].numel() / a.width;
  a.eps = static_cast<float>(eps);
  a.input = data_of<float>(op, "input", input, a.tokens * a.features);
  a.positions = positions ? data_of<float>(op, "positions", *positions, a.tokens * a.width) : nullptr;
  a.score_bias = data_of<float>(op, "score_bias", score_bias, a.tokens);
  TensorReader read(op, "weights", weights);
  a.projection = read.next<uint32_t>(a.width * ((a.features + 1) / 2 * 2));
  a.projection_bias = read.next<float>(a.width);
  a.both = read.next<uint32_t>(a.depth * 2 * a.width * a.width);
  a.both_bias = read.next<float>(a.depth * 2 * a.width);
  a.query = read.next<uint32_t>(a.depth * a.width * a.width);
  a.query_offset = read.next<float>(a.depth * a.width);
  a.query_shift = read.next<float>(a.depth * a.width);
  a.output = read.next<uint32_t>(a.depth * a.width * a.width);
  a.output_bias = read.next<float>(a.depth * a.width);
  if (!read.done()) {
    a.norm_scale = read.next<float>(a.depth * 2 * a.width);
    a.norm_shift = read.next<float>(a.depth * 2 * a.width);
  }
  int64_t counted = 0;
  for (const int64_t count : counts) {
    TORCH_CHECK(count > 0, op, ": each of counts must be at least 1, but one is ", count);
    counted += count;
  }
  TORCH_CHECK(counted == a.tokens, op, ": counts must add up to the ", a.tokens, " tokens of input, but their sum is ",
              counted);

  std::vector<TokenPlace> places;
  Results results = allocate_results(a, counts, places);
  a.places = places.data();
  const int64_t tiles = (a.tokens + own.tile - 1) / own.tile;
  const Tensor panels = at::empty({tiles * a.width * own.tile}, at::kFloat);
  a.panels = panels.data_ptr<float>();
  run(kProject, a, tiles, (a.features + 1) * own.tile);
  run(kAttend, a, tiles * a.depth, 2 * a.width * own.tile);
  return {results.keys, results.scores, results.values};
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_conditions", &conditions); }

}  // namespace ecgtwin
