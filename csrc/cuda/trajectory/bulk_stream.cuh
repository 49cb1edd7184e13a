// The same stream of weights by bulk copies, which one thread begins (sm_90). No stage has a barrier of all threads:
// the warpgroups drift apart, so that the tensor cores have work of one while the other is at something else.
#pragma once

#include "factors.cuh"

namespace ecgtwin::cuda {

template <class S>
class BulkStream {
 public:
  static constexpr unsigned stages = 8;
  static constexpr int bytes = static_cast<int>(stages) * S::stage_bytes + 256;

  __device__ __forceinline__ BulkStream(const void* weights, int stages_of_step, unsigned char* memory)
      : weights_(static_cast<const unsigned char*>(weights)), ring_(memory), of_step_(stages_of_step) {
    if (threadIdx.x == 0) {
      for (unsigned i = 0; i < stages; ++i) {
        init_barrier(full(i), 1);
        init_barrier(empty(i), static_cast<int>(blockDim.x) / kWarp);
      }
      fence_proxy();
      *loaded() = 0;
      for (unsigned i = 0; i < ahead; ++i) load(i);
    }
    __syncthreads();
  }

  // The next stage, until the call after the next: a product with the one before may still be under way.
  __device__ __forceinline__ const BFloat16* next() {
    S::Multiplier::finish_earlier();
    if (used_ >= in_use && threadIdx.x % kWarp == 0) arrive(empty(used_ - in_use));
    if (threadIdx.x == 0) {
      // That of `stages` calls before is over; that of a barrier which is new counts as such.
      wait_phase(empty(used_ + ahead), (used_ + ahead) / stages % 2 ^ 1);
      load(used_ + ahead);
    }
    return take();
  }

  // What is still on its way has nowhere to go when the block ends.
  __device__ __forceinline__ void end() {
    for (unsigned i = 0; i < ahead; ++i) take();
  }

 private:
  // Stages that a warp has not given back, and that are filled or on their way beyond the newest of them. What is left
  // is how far the first warp may run ahead of the others.
  static constexpr unsigned in_use = 2, ahead = stages - in_use - 1;

  // Of a stage by its number.
  __device__ __forceinline__ unsigned char* data(unsigned stage) const {
    return ring_ + stage % stages * S::stage_bytes;
  }
  __device__ __forceinline__ SharedBarrier* full(unsigned stage) const {
    return reinterpret_cast<SharedBarrier*>(ring_ + stages * S::stage_bytes) + stage % stages;
  }
  __device__ __forceinline__ SharedBarrier* empty(unsigned stage) const { return full(stage) + stages; }
  // Of a step's stages, the next to load. In shared memory, as one thread needs it and registers are few.
  __device__ __forceinline__ int* loaded() const { return reinterpret_cast<int*>(full(0) + 2 * stages); }

  __device__ __forceinline__ void load(unsigned stage) {
    const int number = *loaded();
    bulk_copy(data(stage), weights_ + static_cast<int64_t>(number) * S::stage_bytes, S::stage_bytes, full(stage));
    *loaded() = number + 1 == of_step_ ? 0 : number + 1;
  }

  __device__ __forceinline__ const BFloat16* take() {
    wait_phase(full(used_), used_ / stages % 2);
    // What follows needs whole warps.
    __syncwarp();
    const unsigned char* stage = data(used_);
    // Without an end, but never again among the first.
    used_ = used_ + 1 == 1u << 31 ? 1u << 30 : used_ + 1;
    return reinterpret_cast<const BFloat16*>(stage);
  }

  const unsigned char* weights_;
  unsigned char* ring_;
  int of_step_;
  unsigned used_ = 0;
};

}  // namespace ecgtwin::cuda
