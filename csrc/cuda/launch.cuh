// What the CUDA kernels share: launch, shared memory, sums over a warp and a block. Under nvcc this is CUDA; under any
// other compiler the kernels run on the host (emulation.h).
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#else
#include "emulation.h"
#endif

#include "common.h"

namespace ecgtwin::cuda {

constexpr int kWarp = 32;

#if defined(__CUDACC__)

// Parameters and arguments differ in type where an argument converts.
template <typename... Parameters, typename... Arguments>
static inline void launch(void (*kernel)(Parameters...), unsigned blocks, int threads, size_t shared_bytes,
                          cudaStream_t stream, const Arguments&... arguments) {
  constexpr size_t without_asking = 48 << 10;
  if (shared_bytes > without_asking)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...);
}

// Whether a device has code for so many threads of a kernel; its launch bounds say so where it has not.
template <typename... Parameters>
static inline bool admits(void (*kernel)(Parameters...), int threads) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.maxThreadsPerBlock >= threads;
  cudaGetLastError();
  return false;
}

// The shared memory of a block, as the launch sized it.
template <typename Layout>
__device__ __forceinline__ Layout& shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return *reinterpret_cast<Layout*>(memory);
}

__device__ __forceinline__ unsigned shared_address(const void* place) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place));
}

#else

template <typename... Parameters, typename... Arguments>
static inline void launch(void (*kernel)(Parameters...), unsigned blocks, int threads, size_t shared_bytes,
                          cudaStream_t, const Arguments&... arguments) {
  emulation::launch(kernel, blocks, static_cast<unsigned>(threads), shared_bytes, arguments...);
}

// What a device of the newest architecture has code for.
template <typename... Parameters>
static inline bool admits(void (*)(Parameters...), int) {
  return emulation::newest;
}

template <typename Layout>
Layout& shared_memory() {
  return *reinterpret_cast<Layout*>(emulation::block.shared);
}

inline unsigned shared_address(const void* place) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(place) - emulation::block.shared);
}

#endif

template <typename C>
struct Two {
  C first, second;
};

template <typename C>
__device__ __forceinline__ Two<C> warp_sum(Two<C> value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value.first += __shfl_xor_sync(0xffffffffu, value.first, offset);
    value.second += __shfl_xor_sync(0xffffffffu, value.second, offset);
  }
  return value;
}

template <typename C>
__device__ __forceinline__ C warp_sum(C value) {
  return warp_sum(Two<C>{value, C(0)}).first;
}

// The sum over a block of `warps` warps, for every thread. `room` may be used again at once.
template <int warps, typename C>
__device__ __forceinline__ Two<C> block_sum(Two<C> value, Two<C> (&room)[warps]) {
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = value;
  __syncthreads();
  Two<C> total{C(0), C(0)};
#pragma unroll
  for (int warp = 0; warp < warps; ++warp) {
    total.first += room[warp].first;
    total.second += room[warp].second;
  }
  __syncthreads();
  return total;
}

// A grid of at most 2^31 - 1 blocks; kernels stride over tasks beyond it.
static inline unsigned grid(int64_t blocks) {
  return static_cast<unsigned>(blocks < 0x7fffffff ? blocks : 0x7fffffff);
}

}  // namespace ecgtwin::cuda
