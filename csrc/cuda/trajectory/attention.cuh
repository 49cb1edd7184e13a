// The attentions of a block: of a record's positions to each other, and to the tokens of its condition.
#pragma once

#include "room.cuh"
#include "tiles.cuh"

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

// x += gate * attention(norm(x) (1 + scale) + shift). Head by head, through the output projection at once.
template <class S>
__device__ __forceinline__ void self_attention(Room<S>& room, const Modulation<S>& modulation, const Biases<S>& biases,
                                               Sum<float, S::width>& x) {
  using M = typename S::Multiplier;
  constexpr int head = S::head;
  // Others are done with the panels.
  __syncthreads();
  normalise<S, true>(x, modulation.shift(), modulation.scale(), room.normed(room.own_row()));
#pragma unroll 1
  for (int h = 0; h < S::heads; ++h) {
    Operand<head> query;
    {
      Sum<float, head> sum;
      product<S, head>(room.normed(room.first_row()), room.stream, sum);
      add_bias<head>(sum, biases.query() + h * head);
      round_to<head>(query, sum);
    }
    const Panel<head> keys = room.keys(h), values = room.values(h);
    {
      Sum<float, 2 * head> sum;
      product<S, 2 * head>(room.normed(room.first_row()), room.stream, sum);
      round_to<head>(keys.from_row(room.own_row()), sum);
      round_to<head>(values.from_row(room.own_row()), sum + head / 8);
    }
    M::publish();
    // None is at the head before the last any more, whose keys and values the next ones replace.
    __syncthreads();
    RunningAttention<head> attention;
#pragma unroll 1
    for (int key = 0; key < room.length; key += M::keys) {
      Sum<float, M::keys> scores;
      M::template clear<M::keys>(scores);
      M::template multiply_add<head, M::keys>(scores, query, keys.from_row(key).by_rows(), true);
      M::template finish<M::keys>(scores);
      attention.template weigh<M::keys>(scores);
      Operand<M::keys> shares;
      round_to<M::keys>(shares, scores);
      M::template multiply_add<M::keys, head>(attention.attended, shares, values.from_row(key).by_columns(), false);
      M::template finish<head>(attention.attended);
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
  // Others are done with the panels.
  __syncthreads();
  normalise<S, false>(x, nullptr, nullptr, room.normed(room.own_row()));
  const Panel<S::width> queries = room.queries();
  float inverse[2] = {0.0f, 0.0f};
#pragma unroll 1
  for (int first = 0; first < S::width; first += head) {
    Sum<float, head> sum;
    product<S, head>(room.normed(room.first_row()), room.stream, sum);
    add_bias<head>(sum, biases.condition_query() + first);
#pragma unroll
    for (int n = 0; n < head / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) inverse[i / 2] += sum[n][i] * sum[n][i];
    round_to<head>(queries.from_column(first), sum);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) inverse[i] = inverse_root(row_sum(inverse[i]) * share + eps);
  __syncwarp();

#pragma unroll 1
  for (int h = 0; h < S::heads; ++h) {
    Operand<head> query;
#pragma unroll
    for (int k = 0; k < tiles; ++k) Warps::load_left(query[k], queries.from_column(h * head + 16 * k).by_rows());
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
