// Copies of many bytes to shared memory by one thread, barriers in shared memory that wait for them, and the fence
// between a thread's stores and asynchronous readers: sm_90 on the device, as late as may be on the host.
#pragma once

#include "launch.cuh"

#if !defined(__CUDACC__)
#include "emulation_async.h"
#endif

namespace ecgtwin::cuda {

// A barrier of the hardware; its phases are even and odd by turns.
using SharedBarrier = uint64_t;

#if defined(__CUDACC__)

__device__ __forceinline__ void init_barrier(SharedBarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(SharedBarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Waits until the phase of this parity is over.
__device__ __forceinline__ void wait_phase(SharedBarrier* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@!over bra again;\n"
      "}" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}
// Arrives at the barrier, whose phase then waits for the copy. Places and bytes are multiples of 16.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, int bytes, SharedBarrier* barrier) {
  const unsigned at = shared_address(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)), "l"(from), "r"(bytes), "r"(at) : "memory");
}
// What this thread has stored in shared memory, barriers too, is there for asynchronous readers.
__device__ __forceinline__ void fence_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#else

inline void init_barrier(SharedBarrier* barrier, int arrivals) {
  emulation::init_barrier(barrier, static_cast<unsigned>(arrivals));
}
inline void arrive(SharedBarrier* barrier) { emulation::arrive_at(barrier, 0); }
inline void wait_phase(SharedBarrier* barrier, unsigned parity) { emulation::wait_phase(barrier, parity); }
inline void bulk_copy(void* to, const void* from, int bytes, SharedBarrier* barrier) {
  emulation::arrive_at(barrier, static_cast<size_t>(bytes));
  emulation::bulk_copy(to, from, static_cast<size_t>(bytes), barrier);
}
inline void fence_proxy() { emulation::fence_proxy(); }

#endif

// A store to shared memory for asynchronous readers, who see it after the fence.
template <typename V>
__device__ __forceinline__ void store_shared(void* place, V value) {
#if defined(__CUDACC__)
  *static_cast<V*>(place) = value;
#else
  emulation::store(place, value);
#endif
}

}  // namespace ecgtwin::cuda
