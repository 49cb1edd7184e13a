// Whole reverse diffusions of the denoiser `dit` in one launch, for sm_80 and newer.
//
// A thread block takes a record through all steps, then the next that no block has taken. A warp has 16 positions of
// it, and all that a position does alone happens in its warp: norms, products, softmax, MLP. Only self-attention's
// keys and values, and the weights, pass between warps.
//
// Registers: the residual stream stays in them, float32, in the order of the products' sums: width / 2 of the 255 of a
// thread. That is why the attention of each head, and each strip of hidden units, goes through its output matrix at
// once, 16 columns at a time: sums over the whole width would need as many again. The price is a multiplication by the
// gate for each head and strip. ptxas 13.0 takes 229 (sm_80) and 220 (sm_90a) at width 128, and all 255 at width 256,
// where it spills 8 and 4 of them, addresses and counters, outside of the loops that multiply (csrc/cuda_check.py).
//
// Shared memory, bytes                          width 256    width 128    (length 128, 4 channels)
//   normed rows, bfloat16                          67,584       34,816
//   keys and values of a head, or all queries      67,584       34,816
//   three stages of weights                        24,576       24,576
//   x, clean latent, epsilon, record                6,148        6,148
//   in all                                        165,892      100,356    of 166,912 on sm_80
//
// Device memory, or the L2 cache, a record and step: 14 width^2 weights a block of the network in bfloat16, 12.85 MB at
// width 256 with 7 blocks and 2.75 MB at width 128 with 6; 32 width bytes of modulation a block; keys and values of the
// condition; the tables of the rotary encoding; nothing that it has computed. Weights come as fragments (stream.cuh),
// so that a lane has what two products need in one load of 16 bytes. All 8 warps load all weights: at width 256 that is
// 103 MB a step from shared memory, 0.80 million clocks at 128 bytes a clock, and bounds the speed.
#include "trajectory.h"

#include "trajectory/attention.cuh"
#include "trajectory/ends.cuh"
#include "trajectory/mlp.cuh"

namespace ecgtwin::cuda {
namespace {

template <class S>
__device__ __forceinline__ void denoise(Room<S>& room, const TrajectoryArgs& a, int record) {
  begin_record(room, a, record);
  const float* modulation = a.modulation + a.base_of[record] * a.steps * a.depth * 2 * Modulation<S>::numbers;
#pragma unroll 1
  for (int step = 0; step < a.steps; ++step) {
    Sum<float, S::width> x;
    __syncthreads();
    embed(room, a, x);
#pragma unroll 1
    for (int block = 0; block < a.depth; ++block) {
      const Biases<S> biases(a, block);
      self_attention(room, Modulation<S>(modulation), biases, x);
      modulation += Modulation<S>::numbers;
      condition_attention(room, KnownTokens<S>(a, record, block), biases, x);
      mlp(room, Modulation<S>(modulation), biases, static_cast<int>(a.units), x);
      modulation += Modulation<S>::numbers;
    }
    project(room, a, x);
    __syncthreads();
    advance(room, a, record, step);
  }
  end_record(room, a, record);
}

template <class S>
__global__ void __launch_bounds__(S::most_threads, 1) denoise_records(TrajectoryArgs a) {
  Room<S> room(&shared_memory<unsigned char>(), a);
  for (;;) {
    if (threadIdx.x == 0) *room.record = atomicAdd(a.taken, 1);
    __syncthreads();
    const int record = *room.record;
    // Before the next one is taken.
    __syncthreads();
    if (record >= a.records) break;
    denoise(room, a, record);
  }
  room.stream.end();
}

template <class S>
void launch_trajectory(const TrajectoryArgs& a, int64_t blocks, cudaStream_t stream) {
  const int threads = static_cast<int>(a.length) / 16 * kWarp;
  launch(denoise_records<S>, grid(blocks), threads, Room<S>::bytes(a.channels, a.length), stream, a);
}

}  // namespace

int trajectory(const TrajectoryArgs& a, int64_t blocks, void* stream) {
  const auto run = [&](auto sizes) {
    using S = decltype(sizes);
    const bool fits = a.units % S::strip == 0 && a.length % 32 == 0 && a.length / 16 * kWarp <= S::most_threads;
    if (!fits || a.tokens % 16 != 0) return static_cast<int>(cudaErrorInvalidValue);
    launch_trajectory<S>(a, blocks, static_cast<cudaStream_t>(stream));
    return static_cast<int>(cudaGetLastError());
  };
  if (a.width == 256 && a.head == 32) return run(Sizes<256, 32>{});
  if (a.width == 128 && a.head == 32) return run(Sizes<128, 32>{});
  if (a.width == 64 && a.head == 32) return run(Sizes<64, 32>{});
  if (a.width == 32 && a.head == 16) return run(Sizes<32, 16>{});
  return cudaErrorInvalidValue;
}

}  // namespace ecgtwin::cuda
