// Whole reverse diffusions of the denoiser `dit` in one launch, for sm_80 and newer.
//
// A thread block takes a record through all steps, then the next that no block has taken. A warp has 16 positions of
// it, and all that a position does alone happens in its warp: norms, products, softmax, MLP. Only self-attention's
// keys and values, and the weights, pass between warps.
//
// There are two ways to multiply, from the same bytes (trajectory/factors.cuh): by each warp for itself, and on sm_90a,
// for lengths of whole 64 positions, by four warps together with asynchronous instructions.
//
// Registers: the residual stream stays in them, float32, in the order of the products' sums: width / 2 of the 255 of a
// thread. That is why the attention of each head, and each strip of hidden units, goes through its output matrix at
// once, 16 or 64 columns at a time: sums over the whole width would need as many again. The price is a multiplication
// by the gate for each head and strip. ptxas 13.0 takes, of registers and in bytes of spills (addresses and counters,
// outside of the loops that multiply: csrc/cuda_check.py):
//                       width 256      width 128
//   warps, sm_80        255, 92        239, 0
//   warps, sm_90a       255, 60        238, 0
//   warpgroups          255, 184       248, 0
//
// Shared memory, bytes                          width 256    width 128    (length 128, 4 channels)
//   normed rows, queries or keys and values,
//   or instead of them the residual stream       133,120       67,584
//   x, clean latent, epsilon, record                6,148        6,148
//   stages of weights, by warps: three             24,576       24,576
//   in all                                        163,844       98,308    of 166,912 on sm_80
//   stages of weights, by warpgroups: eight        65,792       65,792
//   in all                                        205,060      139,524    of 232,448 on sm_90
//
// Device memory, or the L2 cache, a record and step: 14 width^2 weights a block of the network in bfloat16, 12.85 MB at
// width 256 with 7 blocks and 2.75 MB at width 128 with 6; 32 width bytes of modulation a block; keys and values of the
// condition; the tables of the rotary encoding; nothing that it has computed.
//
// What bounds it, computed at width 256 for a step: where all 8 warps load all weights, that is 103 MB from shared
// memory, 0.80 million clocks at 128 bytes a clock. Two warpgroups load 26 MB of weights and 18 MB of normed rows, 0.34
// million clocks, and their 822 million products take 0.40 million at 2048 a clock: then the tensor cores bound it.
#include "trajectory.h"

#include "trajectory/attention.cuh"
#include "trajectory/ends.cuh"
#include "trajectory/mlp.cuh"

namespace ecgtwin::cuda {
namespace {

int threads_of(const TrajectoryArgs& a) { return static_cast<int>(a.length) / 16 * kWarp; }

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

// Without code, and for a single thread, where the architecture does not multiply so.
template <class S>
__global__ void __launch_bounds__(S::Multiplier::compiled ? S::most_threads : 1, 1) denoise_records(TrajectoryArgs a) {
  if constexpr (S::Multiplier::compiled) {
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
}

template <class S>
void launch_trajectory(const TrajectoryArgs& a, int64_t blocks, cudaStream_t stream) {
  const size_t bytes = Room<S>::bytes(a.channels, a.length);
  launch(denoise_records<S>, grid(blocks), threads_of(a), bytes, stream, a);
}

template <int width, int head>
int run(const TrajectoryArgs& a, int64_t blocks, cudaStream_t stream) {
  using ByWarps = Sizes<width, head, Warps>;
  using ByWarpgroups = Sizes<width, head, Warpgroups>;
  if (a.units % ByWarps::strip != 0 || a.length % 32 != 0 || threads_of(a) > ByWarps::most_threads)
    return cudaErrorInvalidValue;
  if (a.length % Warpgroups::rows == 0 && admits(denoise_records<ByWarpgroups>, threads_of(a)))
    launch_trajectory<ByWarpgroups>(a, blocks, stream);
  else
    launch_trajectory<ByWarps>(a, blocks, stream);
  return cudaGetLastError();
}

}  // namespace

int trajectory(const TrajectoryArgs& a, int64_t blocks, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (a.tokens % 16 != 0) return cudaErrorInvalidValue;
  if (a.width == 256 && a.head == 32) return run<256, 32>(a, blocks, on);
  if (a.width == 128 && a.head == 32) return run<128, 32>(a, blocks, on);
  if (a.width == 64 && a.head == 32) return run<64, 32>(a, blocks, on);
  if (a.width == 32 && a.head == 16) return run<32, 16>(a, blocks, on);
  return cudaErrorInvalidValue;
}

}  // namespace ecgtwin::cuda
