// From lists of tensors to a Transformer and its conditions: shared by the bindings of denoiser and extractor.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "engine_binding.h"
#include "transformer.h"

namespace ecgtwin {

constexpr int64_t kBlockTensors = 15;
constexpr float kLog2E = 1.44269504f;

// Blocks of `width` channels, kBlockTensors tensors each in the order of TransformerBlock.
inline std::vector<TransformerBlock> read_blocks(const char* op, at::TensorList tensors, int64_t width, int64_t ratio,
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

// The embedding's four tensors come from `network`; `blocks` must outlive the result.
inline Transformer read_transformer(const char* op, TensorReader& network, int64_t width, int64_t channels,
                                    const std::vector<TransformerBlock>& blocks, int64_t heads, int64_t ratio,
                                    int64_t length) {
  Transformer net{};
  net.width = width;
  net.channels = channels;
  net.heads = heads;
  net.ratio = ratio;
  net.length = length;
  net.depth = static_cast<int64_t>(blocks.size());
  net.blocks = blocks.data();
  TORCH_CHECK(heads > 0 && width % heads == 0 && net.head_size() % kHeadMultiple == 0 && length % kLengthMultiple == 0,
              op, ": the width of a head must be a multiple of ", kHeadMultiple, " and the length one of ",
              kLengthMultiple, ", but width ", width, " has ", heads, " heads and the length is ", length);
  net.query_factor = kLog2E / std::sqrt(static_cast<float>(net.head_size()));
  net.in_weight = network.next<float>(width * channels);
  net.in_bias = network.next<float>(width);
  net.cosine = network.next<float>(width / 2 * length);
  net.sine = network.next<float>(width / 2 * length);
  return net;
}

inline std::vector<TransformerCondition> read_conditions(const char* op, at::TensorList keys, at::TensorList values,
                                                         at::TensorList bias, const Transformer& net,
                                                         const ProductLayout& layout) {
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
    c.bias = data_of<float>(op, "bias" + index, bias[i], c.tokens);
    c.keys = data_of<uint32_t>(op, "keys" + index, keys[i], net.depth * c.tokens * net.width / layout.pack);
    const int64_t packed = net.depth * net.width * net.heads * c.tokens / layout.pack, plain = net.depth * net.width;
    c.values = c.tokens ? data_of<uint32_t>(op, "values" + index, values[i], packed) : nullptr;
    c.constant = c.tokens ? nullptr : data_of<float>(op, "values" + index, values[i], plain);
  }
  return conditions;
}

inline int64_t most_tokens(const std::vector<TransformerCondition>& conditions) {
  int64_t most = 0;
  for (const TransformerCondition& condition : conditions) most = std::max(most, condition.tokens);
  return most;
}

}  // namespace ecgtwin
