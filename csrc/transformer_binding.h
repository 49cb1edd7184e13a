// From lists of tensors to a Transformer and its conditions: shared by the bindings of denoiser and extractor.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "engine_binding.h"
#include "transformer.h"

namespace ecgtwin {

constexpr int64_t kBlockTensors = 13;
constexpr float kLog2E = 1.44269504f;

// kBlockTensors tensors a block, in the order of TransformerBlock.
inline std::vector<TransformerBlock> read_blocks(const char* op, at::TensorList tensors, const Transformer& net,
                                                 const ProductLayout& layout, bool norm_queries) {
  const int64_t width = net.width, matrix = width * width / layout.pack;
  TensorReader read(op, "blocks", tensors);
  std::vector<TransformerBlock> blocks(tensors.size() / kBlockTensors);
  for (TransformerBlock& block : blocks) {
    block.query = read.next<uint32_t>(matrix);
    block.key = read.next<uint32_t>(matrix);
    block.value = read.next<uint32_t>(matrix);
    block.output = read.next<uint32_t>(matrix);
    block.triangle = read.next<uint32_t>(norm_queries ? net.triangle_size(layout) : 0);
    block.up = read.next<uint32_t>(net.ratio * matrix);
    block.down = read.next<uint32_t>(net.ratio * matrix);
    block.query_bias = read.next<float>(width);
    block.output_bias = read.next<float>(width);
    block.triangle_offset = read.next<float>(norm_queries ? width : 0);
    block.cross_bias = read.next<float>(width);
    block.up_bias = read.next<float>(net.ratio * width);
    block.down_bias = read.next<float>(width);
  }
  TORCH_CHECK(read.done(), op, ": blocks must have ", kBlockTensors, " tensors a block, but it has ", tensors.size());
  return blocks;
}

// Sizes from the embedding's four tensors at the head of `network`, of which `read` is the reader; no blocks yet.
inline Transformer read_embedding(const char* op, at::TensorList network, TensorReader& read, int64_t heads,
                                  int64_t ratio, int64_t length) {
  TORCH_CHECK(network.size() >= 2 && network[1].numel() > 0, op, ": network must begin with the embedding's weights");
  Transformer net{};
  net.width = network[1].numel();
  net.channels = network[0].numel() / net.width;
  net.heads = heads;
  net.ratio = ratio;
  net.length = length;
  TORCH_CHECK(heads > 0 && net.width % heads == 0 && net.head_size() % kHeadMultiple == 0 &&
                  length % kLengthMultiple == 0,
              op, ": the width of a head must be a multiple of ", kHeadMultiple, " and the length one of ",
              kLengthMultiple, ", but width ", net.width, " has ", heads, " heads and the length is ", length);
  net.query_factor = kLog2E / std::sqrt(static_cast<float>(net.head_size()));
  net.in_weight = read.next<float>(net.width * net.channels);
  net.in_bias = read.next<float>(net.width);
  net.cosine = read.next<float>(net.width / 2 * length);
  net.sine = read.next<float>(net.width / 2 * length);
  return net;
}

inline std::vector<TransformerCondition> read_conditions(const char* op, at::TensorList keys, at::TensorList scores,
                                                         at::TensorList values, const Transformer& net,
                                                         const ProductLayout& layout) {
  TORCH_CHECK(keys.size() == values.size() && keys.size() == scores.size(), op,
              ": keys, scores and values must have one tensor a condition, but they have ", keys.size(), ", ",
              scores.size(), " and ", values.size());
  std::vector<TransformerCondition> conditions(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string index = "[" + std::to_string(i) + "]";
    TransformerCondition& c = conditions[i];
    const int64_t rows = scores[i].numel() / (2 * net.depth);
    c.tokens = rows / net.heads;
    TORCH_CHECK(c.tokens % layout.rows == 0, op, ": scores", index, " must be of a multiple of ", layout.rows,
                " tokens, but they are of ", c.tokens);
    const int64_t matrix = net.depth * net.width * net.heads * c.tokens / layout.pack;
    c.keys = data_of<uint32_t>(op, "keys" + index, keys[i], matrix);
    c.scores = data_of<float>(op, "scores" + index, scores[i], net.depth * 2 * net.heads * c.tokens);
    if (c.tokens > 0)
      c.values = data_of<uint32_t>(op, "values" + index, values[i], matrix);
    else
      c.constant = data_of<float>(op, "values" + index, values[i], net.depth * net.width);
  }
  return conditions;
}

inline int64_t most_tokens(const std::vector<TransformerCondition>& conditions) {
  int64_t most = 0;
  for (const TransformerCondition& condition : conditions) most = std::max(most, condition.tokens);
  return most;
}

}  // namespace ecgtwin
