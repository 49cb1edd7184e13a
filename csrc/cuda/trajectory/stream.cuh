// Weights on their way through shared memory, in order of use, over and over: by copies of all threads (sm_80).
#pragma once

#include "async_copy.cuh"
#include "factors.cuh"

namespace ecgtwin::cuda {

// A ring of stages; while one is used, the following ones are on their way. All threads of a block take part.
template <class S>
class WeightStream {
 public:
  static constexpr int stages = 3, bytes = stages * S::stage_bytes;

  __device__ __forceinline__ WeightStream(const void* weights, int stages_of_step, unsigned char* memory)
      : weights_(static_cast<const unsigned char*>(weights)), ring_(memory), count_(stages_of_step) {
#pragma unroll
    for (int i = 0; i + 1 < stages; ++i) load(i);
  }

  // The next stage, until the next call.
  __device__ __forceinline__ const BFloat16* next() {
    wait_copies<stages - 2>();
    // The stage is there for all threads, and none is in the one before it any more, which is filled again.
    __syncthreads();
    load(place_ == 0 ? stages - 1 : place_ - 1);
    const unsigned char* stage = ring_ + place_ * S::stage_bytes;
    place_ = place_ + 1 == stages ? 0 : place_ + 1;
    return reinterpret_cast<const BFloat16*>(stage);
  }

  // What is still on its way has nowhere to go when the block ends.
  __device__ __forceinline__ void end() { wait_copies<0>(); }

 private:
  __device__ __forceinline__ void load(int place) {
    const unsigned char* from = weights_ + static_cast<int64_t>(loaded_) * S::stage_bytes;
    unsigned char* to = ring_ + place * S::stage_bytes;
    for (int i = 16 * static_cast<int>(threadIdx.x); i < S::stage_bytes; i += 16 * static_cast<int>(blockDim.x))
      copy_async(to + i, from + i);
    commit_copies();
    loaded_ = loaded_ + 1 == count_ ? 0 : loaded_ + 1;
  }

  const unsigned char* weights_;
  unsigned char* ring_;
  int count_, loaded_ = 0, place_ = 0;
};

}  // namespace ecgtwin::cuda
