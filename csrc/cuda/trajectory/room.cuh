// What the parts of a block work in: the stream of weights, and panels of a record's activations in shared memory.
#pragma once

#include "products.cuh"
#include "trajectory.h"

namespace ecgtwin::cuda {

// Shared memory: the ring, two panels of `length` rows, then float32: x, the clean latent before, epsilon; the record's
// number.
template <class S>
struct Room {
  using Stage = typename WeightStream<S>::Stage;
  // The second panel holds one head's keys and values, or all condition queries.
  static constexpr int second_columns = S::stride > 2 * S::head_stride ? S::stride : 2 * S::head_stride;

  static size_t bytes(int64_t channels, int64_t length) {
    const int64_t panels = length * (S::stride + second_columns);
    const int64_t numbers = 3 * channels * length;
    return S::stages * sizeof(Stage) + panels * sizeof(BFloat16) + numbers * sizeof(float) + sizeof(int);
  }

  __device__ __forceinline__ Room(unsigned char* memory, const TrajectoryArgs& a)
      : stream(a.weights, static_cast<int>(S::stages_of_step(a.depth, a.units)), reinterpret_cast<Stage*>(memory)),
        length(static_cast<int>(a.length)),
        own_row(static_cast<int>(threadIdx.x) / kWarp * 16) {
    panels = reinterpret_cast<BFloat16*>(memory + S::stages * sizeof(Stage));
    BFloat16* second = panels + length * S::stride;
    operand = panels + own_row * S::stride;
    queries = second + own_row * S::stride;
    keys = second;
    values = second + length * S::head_stride;
    latent = reinterpret_cast<float*>(second + length * second_columns);
    clean = latent + a.channels * length;
    epsilon = clean + a.channels * length;
    record = reinterpret_cast<int*>(epsilon + a.channels * length);
  }

  WeightStream<S> stream;
  int length, own_row;             // the warp's rows begin at own_row
  BFloat16* panels;
  BFloat16 *operand, *queries;     // the warp's rows of the first and of the second panel
  BFloat16 *keys, *values;         // of one head, all rows
  float *latent, *clean, *epsilon; // (channels, length)
  int* record;
};

// Of one block of the network.
template <class S>
class Biases {
 public:
  __device__ __forceinline__ Biases(const TrajectoryArgs& a, int block)
      : rows_(a.biases + block * (3 * S::width + static_cast<int>(a.units))) {}
  __device__ __forceinline__ const float* query() const { return rows_; }
  __device__ __forceinline__ const float* condition_query() const { return rows_ + S::width; }
  __device__ __forceinline__ const float* condition_output() const { return rows_ + 2 * S::width; }
  __device__ __forceinline__ const float* up() const { return rows_ + 3 * S::width; }

 private:
  const float* rows_;
};

// Of one modulated part of a block; `bias` is that of its output times the gate.
template <class S>
class Modulation {
 public:
  static constexpr int numbers = 4 * S::width;
  __device__ __forceinline__ explicit Modulation(const float* rows) : rows_(rows) {}
  __device__ __forceinline__ const float* shift() const { return rows_; }
  __device__ __forceinline__ const float* scale() const { return rows_ + S::width; }
  __device__ __forceinline__ const float* gate() const { return rows_ + 2 * S::width; }
  __device__ __forceinline__ const float* bias() const { return rows_ + 3 * S::width; }

 private:
  const float* rows_;
};

}  // namespace ecgtwin::cuda
