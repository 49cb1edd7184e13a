// Copies to shared memory that run beside a thread (cp.async of sm_80), in groups. On the host they take effect as late
// as they may: until the thread waits for them, their target is poison.
#pragma once

#include "launch.cuh"

namespace ecgtwin::cuda {

#if defined(__CUDACC__)

// 16 bytes, past the L1 cache; both places are multiples of 16 bytes.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
// Ends a group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all of this thread's groups but the last `pending` are there.
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else

inline void copy_async(void* to, const void* from) { emulation::begin_copy(to, from, 16); }
inline void commit_copies() { emulation::commit_copies(); }
template <int pending>
void wait_copies() {
  emulation::wait_copies(pending);
}

#endif

}  // namespace ecgtwin::cuda
