// Kernels, right and wrong ones, that show what the emulation does and what it catches.
#include "launch.cuh"

namespace {

constexpr int kThreads = 96;

struct Shared {
  float value[kThreads];
};

// Each thread's neighbour's number, in `numbers`; without the barrier it may be read before it is written.
template <bool barrier>
__global__ void neighbours(float* numbers) {
  float* value = ecgtwin::cuda::shared_memory<Shared>().value;
  value[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (barrier) __syncthreads();
  numbers[blockIdx.x * kThreads + threadIdx.x] = value[(threadIdx.x + 1) % kThreads];
}

__global__ void unwritten_memory(float* numbers) {
  numbers[threadIdx.x] = ecgtwin::cuda::shared_memory<Shared>().value[threadIdx.x];
}

__global__ void barrier_for_some(float*) {
  if (threadIdx.x < 64) __syncthreads();
}

__global__ void different_operations(float* numbers) {
  if (threadIdx.x % 2) numbers[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  else __syncwarp();
}

__global__ void beyond_the_end(float*) {
  float* value = ecgtwin::cuda::shared_memory<Shared>().value;
  value[kThreads + threadIdx.x / 95] = 0;
}

// Sums by atomics; numbers passed to other lanes.
__global__ void warp_functions(float* numbers) {
  const float own = __ldg(numbers + threadIdx.x);
  atomicAdd(numbers + kThreads, own);
  const float first = __shfl_sync(0xffffffffu, own, 0);
  numbers[threadIdx.x] = first + 1000 * __shfl_xor_sync(0xffffffffu, own, 5);
}

}  // namespace

int probe(const int64_t& kind, int64_t, void* numbers) {
  void (*const kernels[])(float*) = {neighbours<true>, neighbours<false>,    unwritten_memory, barrier_for_some,
                                     different_operations, beyond_the_end, warp_functions};
  ecgtwin::cuda::launch(kernels[kind], 2, kThreads, sizeof(Shared), nullptr, static_cast<float*>(numbers));
  return cudaGetLastError();
}
