// How an operator names its kernels: one a CPU instruction set, one launcher for CUDA. No torch headers here.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ecgtwin {

template <typename Args>
struct Kernel {
  // By CpuLevel; each does the tasks begin..end. What a task is, the Args say.
  void (*cpu[kCpuLevels])(const Args& args, int64_t begin, int64_t end);
  // Launches every task on a CUDA stream and returns the cudaError_t.
  int (*cuda)(const Args& args, int64_t tasks, void* stream);
};

}  // namespace ecgtwin

#if defined(__x86_64__) || defined(_M_X64)
#define ECGTWIN_CPU_KERNELS(NAME) {generic::NAME, avx2::NAME, avx512::NAME, avx512bf16::NAME}
#else
#define ECGTWIN_CPU_KERNELS(NAME) {generic::NAME, nullptr, nullptr, nullptr}
#endif

#if defined(ECGTWIN_CUDA)
#define ECGTWIN_CUDA_KERNEL(NAME) cuda::NAME
#else
#define ECGTWIN_CUDA_KERNEL(NAME) nullptr
#endif

#define ECGTWIN_DECLARE_KERNEL(NAME, ARGS)                    \
  namespace generic { void NAME(const ARGS&, int64_t, int64_t); } \
  namespace avx2 { void NAME(const ARGS&, int64_t, int64_t); }    \
  namespace avx512 { void NAME(const ARGS&, int64_t, int64_t); }  \
  namespace avx512bf16 { void NAME(const ARGS&, int64_t, int64_t); }  \
  namespace cuda { int NAME(const ARGS&, int64_t, void*); }

// Of a kernel that no CPU runs.
#define ECGTWIN_CUDA_ONLY(NAME, ARGS) \
  ::ecgtwin::Kernel<ARGS> { {}, ECGTWIN_CUDA_KERNEL(NAME) }

#define ECGTWIN_KERNEL(NAME, ARGS) \
  ::ecgtwin::Kernel<ARGS> { ECGTWIN_CPU_KERNELS(NAME), ECGTWIN_CUDA_KERNEL(NAME) }

// Engines run on vector instructions alone: there is no generic kernel. ECGTWIN_ENGINE(NAME) is an array by CpuLevel.
#define ECGTWIN_DECLARE_ENGINE(NAME, ARGS)             \
  namespace avx2 { void NAME(const ARGS&, int64_t); }   \
  namespace avx512 { void NAME(const ARGS&, int64_t); } \
  namespace avx512bf16 { void NAME(const ARGS&, int64_t); }

#if defined(__x86_64__) || defined(_M_X64)
#define ECGTWIN_ENGINE(NAME) {nullptr, avx2::NAME, avx512::NAME, avx512bf16::NAME}
#else
#define ECGTWIN_ENGINE(NAME) {nullptr, nullptr, nullptr, nullptr}
#endif
