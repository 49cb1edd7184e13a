// What every operator's binding to torch needs: checks that speak in sentences, and the launch on either device.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>

#include "common.h"
#include "cpu_level.h"
#include "kernel.h"

#ifdef ECGTWIN_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace ecgtwin {

static inline Dtype dtype_of(const char* op, const char* name, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return Dtype::float32;
    case at::kBFloat16: return Dtype::bfloat16;
    case at::kDouble: return Dtype::float64;
    default:
      TORCH_CHECK(false, op, ": ", name, " must be float32, bfloat16 or float64, but it is ", tensor.scalar_type());
  }
}

static inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

static inline void check_dim(const char* op, const char* name, const at::Tensor& tensor, int64_t dim, const char* shape) {
  TORCH_CHECK(tensor.dim() == dim, op, ": ", name, " must be ", shape, ", but its shape is ", tensor.sizes());
}

// `tensor` must have this shape and x's device; and x's dtype unless another is named.
static inline void check_like(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                              const at::Tensor& x, c10::optional<at::ScalarType> dtype = c10::nullopt) {
  const at::ScalarType expected = dtype.value_or(x.scalar_type());
  TORCH_CHECK(tensor.sizes() == shape, op, ": ", name, " must have shape ", shape, " to fit x of shape ", x.sizes(),
              ", but it has ", tensor.sizes());
  TORCH_CHECK(tensor.device() == x.device(), op, ": ", name, " must be on ", x.device(), " as x is, but it is on ",
              tensor.device());
  TORCH_CHECK(tensor.scalar_type() == expected, op, ": ", name, " must be ", expected, " where x is ", x.scalar_type(),
              ", but it is ", tensor.scalar_type());
}

// Rows may lie anywhere (the views of chunk(6)), but the elements of a row lie side by side.
static inline at::Tensor unit_last_stride(const at::Tensor& tensor) {
  return tensor.stride(-1) == 1 || tensor.size(-1) <= 1 ? tensor : tensor.contiguous();
}

#ifdef ECGTWIN_CUDA
static inline void check_launch(const char* op, int status) {
  const auto error = static_cast<cudaError_t>(status);
  TORCH_CHECK(error != cudaErrorNoKernelImageForDevice, op, ": this GPU's architecture is not among those built (",
              ECGTWIN_ARCHITECTURES, "); rebuild on this machine with `pip install --no-build-isolation --no-deps -e .` ",
              "after setting ECGTWIN_CUDA_ARCHITECTURES");
  TORCH_CHECK(error == cudaSuccess, op, ": the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}
#endif

// Runs tasks 0..tasks on the device of x, a CPU thread taking at least as many as make up 32,768 elements.
template <typename Args>
static inline void launch(const char* op, const Kernel<Args>& kernel, const Args& args, int64_t tasks,
                          int64_t elements_per_task, const at::Tensor& x) {
  if (tasks == 0) return;
#ifdef ECGTWIN_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    check_launch(op, kernel.cuda(args, tasks, c10::cuda::getCurrentCUDAStream().stream()));
    return;
  }
#endif
  TORCH_CHECK(x.is_cpu(), op, ": x must be on the CPU or a GPU this build has kernels for, but it is on ", x.device());
  const auto run = kernel.cpu[static_cast<int>(cpu_level())];
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements_per_task));
  at::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace ecgtwin

#ifdef ECGTWIN_CUDA
#define ECGTWIN_IMPL_CUDA(...) TORCH_LIBRARY_IMPL(ecgtwin_fast, CUDA, m) __VA_ARGS__
#else
#define ECGTWIN_IMPL_CUDA(...)
#endif
// Registers one implementation for every device that this build has kernels for.
#define ECGTWIN_IMPL(...)                              \
  TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) __VA_ARGS__ \
  ECGTWIN_IMPL_CUDA(__VA_ARGS__)
