// Weights on their way through shared memory: fragments of products, in order of use, over and over.
#pragma once

#include "async_copy.cuh"
#include "sizes.cuh"

namespace ecgtwin::cuda {

// 16 x 16 elements of the right factor b of a product as its lanes take them: b0, b1 of columns 0..7, then of 8..15.
struct Tile {
  Vector<uint32_t> of_lane[kWarp];
};

__device__ __forceinline__ Vector<uint32_t> fragment(const Tile& tile) { return tile.of_lane[threadIdx.x % kWarp]; }

// sum (16 x 16) += a (16 x 16) times a tile.
__device__ __forceinline__ void multiply_add(float (&left)[4], float (&right)[4], const uint32_t (&a)[4],
                                             const Tile& tile) {
  const Vector<uint32_t> b = fragment(tile);
  multiply_add(left, a, b.at[0], b.at[1]);
  multiply_add(right, a, b.at[2], b.at[3]);
}

// A ring of stages; while one is used, the following ones are on their way. All threads of a block take part.
template <class S>
class WeightStream {
 public:
  struct Stage {
    Tile tiles[S::stage_tiles];
  };

  __device__ __forceinline__ WeightStream(const void* weights, int stages, Stage* ring)
      : weights_(static_cast<const Stage*>(weights)), ring_(ring), stages_(stages) {
#pragma unroll
    for (int i = 0; i + 1 < S::stages; ++i) load(i);
  }

  // The next stage, until the next call.
  __device__ __forceinline__ const Tile* next() {
    wait_copies<S::stages - 2>();
    // The stage is there for all threads, and none is in the one before it any more, which is filled again.
    __syncthreads();
    load(place_ == 0 ? S::stages - 1 : place_ - 1);
    const Tile* stage = ring_[place_].tiles;
    place_ = place_ + 1 == S::stages ? 0 : place_ + 1;
    return stage;
  }

  // What is still on its way has nowhere to go when the block ends.
  __device__ __forceinline__ static void end() { wait_copies<0>(); }

 private:
  __device__ __forceinline__ void load(int place) {
    constexpr int chunks = S::stage_tiles * kWarp;
    const Vector<uint32_t>* from = weights_[loaded_].tiles[0].of_lane;
    Vector<uint32_t>* to = ring_[place].tiles[0].of_lane;
    for (int i = static_cast<int>(threadIdx.x); i < chunks; i += static_cast<int>(blockDim.x))
      copy_async(to + i, from + i);
    commit_copies();
    loaded_ = loaded_ + 1 == stages_ ? 0 : loaded_ + 1;
  }

  const Stage* weights_;
  Stage* ring_;
  int stages_, loaded_ = 0, place_ = 0;
};

}  // namespace ecgtwin::cuda
