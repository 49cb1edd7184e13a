// The attentions of a block: of a record's positions to each other, and to the tokens of its condition.
#pragma once

#include "room.cuh"

namespace ecgtwin::cuda {

// Of a warp's 16 queries, in one head, to keys that come some at a time. Scores are in units of log2(e).
template <int head>
struct RunningAttention {
  float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  Sum<float, head> attended = {};

  // Scores become shares of the largest so far, and what was attended to before counts by that too. At least one score
  // of the first keys is finite.
  template <int keys>
  __device__ __forceinline__ void weigh(Sum<float, keys>& scores) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float largest = maximum[i];
#pragma unroll
      for (int n = 0; n < keys / 8; ++n) largest = fmaxf(largest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      largest = row_maximum(largest);
      const float kept = power_of_two(maximum[i] - largest);
      maximum[i] = largest;
      total[i] *= kept;
#pragma unroll
      for (int n = 0; n < head / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) attended[n][2 * i + j] *= kept;
#pragma unroll
      for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float share = power_of_two(scores[n][2 * i + j] - largest);
          scores[n][2 * i + j] = share;
          total[i] += share;
        }
    }
  }

  __device__ __forceinline__ void finish(Operand<head>& operand) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float inverse = reciprocal(row_sum(total[i]));
#pragma unroll
      for (int n = 0; n < head / 8; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) attended[n][2 * i + j] *= inverse;
    }
    round_to<head>(operand, attended);
  }
};

// scores = query times the transpose of some keys, rows of a tile.
template <int head, int keys>
__device__ __forceinline__ void score(const Operand<head>& query, const BFloat16* key, Sum<float, keys>& scores) {
  constexpr int stride = kStride<BFloat16, head>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  key += (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < keys / 8; n += 2)
#pragma unroll
    for (int k = 0; k < head / 16; ++k) {
      uint32_t right[4];
      load_matrices<false>(right, key + 8 * n * stride + 16 * k);
      multiply_add(scores[n], query[k], right[0], right[1]);
      multiply_add(scores[n + 1], query[k], right[2], right[3]);
    }
}

// x += gate * attention(norm(x) (1 + scale) + shift). Head by head, through the output projection at once.
template <class S>
__device__ __forceinline__ void self_attention(Room<S>& room, const Modulation<S>& modulation, const Biases<S>& biases,
                                               Sum<float, S::width>& x) {
  constexpr int head = S::head, keys_at_once = 32;
  normalise<S, true>(x, modulation.shift(), modulation.scale(), room.operand);
#pragma unroll 1
  for (int first = 0; first < S::width; first += head) {
    Operand<head> query;
    {
      Sum<float, head> sum;
      product<S, head>(room.operand, room.stream, sum);
      add_bias<head>(sum, biases.query() + first);
      round_to<head>(query, sum);
    }
    {
      // Between the last reader of the head before and this, the stream has had barriers.
      Sum<float, 2 * head> sum;
      product<S, 2 * head>(room.operand, room.stream, sum);
      round_to<head>(room.keys + room.own_row * S::head_stride, S::head_stride, sum);
      round_to<head>(room.values + room.own_row * S::head_stride, S::head_stride, sum + head / 8);
    }
    __syncthreads();
    RunningAttention<head> attention;
#pragma unroll 1
    for (int key = 0; key < room.length; key += keys_at_once) {
      Sum<float, keys_at_once> scores = {};
      score<head, keys_at_once>(query, room.keys + key * S::head_stride, scores);
      attention.template weigh<keys_at_once>(scores);
      Products<BFloat16>::sum_by_matrix<keys_at_once, head>(scores, room.values + key * S::head_stride, nullptr,
                                                            attention.attended);
    }
    Operand<head> attended;
    attention.finish(attended);
    add_gated_product<S, head>(attended, room.stream, modulation.gate(), x);
  }
  add_bias<S::width>(x, modulation.bias());
}

// Of a record's condition in one block of the network. What is read again needs no register in between.
template <class S>
struct KnownTokens {
  static constexpr int tiles = S::head / 16;  // of 16 tokens in one head

  __device__ __forceinline__ KnownTokens(const TrajectoryArgs& a, int record, int block)
      : padded(static_cast<int>(a.tokens)) {
    const int64_t condition = a.condition_of[record];
    count = static_cast<int>(a.counts[condition]);
    const int64_t rows = (condition * a.depth + block) * S::heads * a.tokens;
    keys = static_cast<const Tile*>(a.keys) + rows * S::head / 256;
    values = static_cast<const Tile*>(a.values) + rows * S::head / 256;
    score_bias = a.score_bias + rows;
  }
  const Tile *keys, *values;
  const float* score_bias;
  int count, padded;
};

// x += attention of norm(x) to the tokens. The stream's queries have mean zero over the channels, so that their norm
// only divides them by their length; its scale is in the keys, its shift in the bias of the scores.
template <class S>
__device__ __forceinline__ void condition_attention(Room<S>& room, const KnownTokens<S>& tokens,
                                                    const Biases<S>& biases, Sum<float, S::width>& x) {
  constexpr int head = S::head, tiles = KnownTokens<S>::tiles;
  constexpr float share = 1.0f / S::width, eps = 1e-5f;
  normalise<S, false>(x, nullptr, nullptr, room.operand);
  float inverse[2] = {0.0f, 0.0f};
#pragma unroll 1
  for (int first = 0; first < S::width; first += head) {
    Sum<float, head> sum;
    product<S, head>(room.operand, room.stream, sum);
    add_bias<head>(sum, biases.condition_query() + first);
#pragma unroll
    for (int n = 0; n < head / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) inverse[i / 2] += sum[n][i] * sum[n][i];
    round_to<head>(room.queries + first, S::stride, sum);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) inverse[i] = inverse_root(row_sum(inverse[i]) * share + eps);
  __syncwarp();

#pragma unroll 1
  for (int h = 0; h < S::heads; ++h) {
    Operand<head> query;
#pragma unroll
    for (int k = 0; k < tiles; ++k) load_operand(query[k], room.queries + h * head + 16 * k, S::stride);
    const Tile* keys = tokens.keys + h * tokens.padded * tiles / 16;
    const Tile* values = tokens.values + h * tokens.padded * tiles / 16;
    const OfColumns bias(tokens.score_bias + h * tokens.padded);
    RunningAttention<head> attention;
#pragma unroll 1
    for (int first = 0; first < tokens.count; first += 16) {
      Sum<float, 16> scores = {};
#pragma unroll
      for (int k = 0; k < tiles; ++k) multiply_add(scores[0], scores[1], query[k], *keys++);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const Pair add = bias[first / 8 + n];
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[n][i] = scores[n][i] * inverse[i / 2] + (i % 2 ? add.second : add.first);
      }
      attention.template weigh<16>(scores);
      Operand<16> shares;
      round_to<16>(shares, scores);
#pragma unroll
      for (int n = 0; n < tiles; ++n)
        multiply_add(attention.attended[2 * n], attention.attended[2 * n + 1], shares[0], *values++);
    }
    Operand<head> attended;
    attention.finish(attended);
    add_product<S, head>(attended, room.stream, x);
  }
  add_bias<S::width>(x, biases.condition_output());
}

}  // namespace ecgtwin::cuda
