// What the parts of a block work in: the stream of weights, and panels of a record's activations in shared memory.
#pragma once

#include "products.cuh"
#include "trajectory.h"

namespace ecgtwin::cuda {

// Shared memory: the stream, two panels of `length` rows, then float32: x, the clean latent before, epsilon; the
// record's number.
template <class S>
struct Room {
  // The second panel holds keys and values of a head and of the one before, or all condition queries.
  static constexpr int second_columns = S::width > 4 * S::head ? S::width : 4 * S::head;
  // Instead of both the residual stream of a record, once a step.
  static constexpr int residual_stride = kStride<float, S::width>;
  static constexpr int panel_bytes = (S::width + second_columns) * static_cast<int>(sizeof(BFloat16));
  static constexpr int residual_bytes = residual_stride * static_cast<int>(sizeof(float));
  static constexpr int row_bytes = panel_bytes > residual_bytes ? panel_bytes : residual_bytes;

  static size_t bytes(int64_t channels, int64_t length) {
    return Stream<S>::bytes + length * (row_bytes + 3 * channels * sizeof(float)) + sizeof(int);
  }

  __device__ __forceinline__ Room(unsigned char* memory, const TrajectoryArgs& a)
      : stream(a.weights, static_cast<int>(S::stages_of_step(a.depth, a.units)), memory),
        length(static_cast<int>(a.length)),
        rows_(memory + Stream<S>::bytes) {
    latent = reinterpret_cast<float*>(rows_ + length * row_bytes);
    clean = latent + a.channels * length;
    epsilon = clean + a.channels * length;
    record = reinterpret_cast<int*>(epsilon + a.channels * length);
  }

  // The first of the warp's rows, and of those that are multiplied together with them.
  __device__ __forceinline__ static int own_row() { return static_cast<int>(threadIdx.x) / kWarp * 16; }
  __device__ __forceinline__ static int first_row() { return own_row() / S::Multiplier::rows * S::Multiplier::rows; }

  __device__ __forceinline__ Panel<S::width> normed(int row) const {
    return Panel<S::width>{reinterpret_cast<BFloat16*>(rows_)}.from_row(row);
  }
  __device__ __forceinline__ Panel<S::width> queries() const { return normed(length + own_row()); }
  // Keys or values of all rows in a head; those of the next head lie elsewhere.
  __device__ __forceinline__ Panel<S::head> keys(int head) const {
    return {normed(length).data + head % 2 * 2 * length * S::head};
  }
  __device__ __forceinline__ Panel<S::head> values(int head) const { return keys(head).from_row(length); }
  // The warp's rows, residual_stride apart.
  __device__ __forceinline__ float* residual() const {
    return reinterpret_cast<float*>(rows_) + own_row() * residual_stride;
  }

  Stream<S> stream;
  int length;
  float *latent, *clean, *epsilon;  // (channels, length)
  int* record;

 private:
  unsigned char* rows_;
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
