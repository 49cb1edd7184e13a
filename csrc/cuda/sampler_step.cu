// CUDA kernel of the sampler step: a thread draws four normals from one counter and updates their four elements.
#include "sampler_step.h"

#include "launch.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) step(SamplerArgs given, int64_t counters_per_record, int64_t counters) {
  using C = Compute<T>;
  const SamplerArgs a = keyed(given);
  const SamplerStep<C> k = read_step<C>(a.coefficients);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t task = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; task < counters; task += stride) {
    const int64_t record = task / counters_per_record, counter = task % counters_per_record;
    Normal4 drawn{};
    if (!a.noise && k.k_noise != C(0))
      drawn =
          draw_normals(static_cast<uint32_t>(counter), a.step, a.first_index + static_cast<uint64_t>(record), a.seed);
#pragma unroll
    for (int64_t i = 0; i < kNormalsPerCounter; ++i) {
      const int64_t element = counter * kNormalsPerCounter + i;
      if (element >= a.elements) break;
      const int64_t at = record * a.elements + element;
      const C x = load(static_cast<const T*>(a.x)[at]), eps = load(static_cast<const T*>(a.eps)[at]);
      const C noise = a.noise ? C(load(static_cast<const T*>(a.noise)[at])) : C(drawn.at[i]);
      const C previous = a.x0_prev ? C(load(static_cast<const T*>(a.x0_prev)[at])) : C(0);
      const C x0 = predicted_x0<C>(k, x, eps);
      store(static_cast<T*>(a.x0) + at, x0);
      store(static_cast<T*>(a.next) + at, next_x<C>(k, x, x0, previous, eps, noise));
    }
  }
}

template <typename T>
void launch_step(const SamplerArgs& a, int64_t tasks, cudaStream_t stream) {
  const int64_t per_record = (a.elements + kNormalsPerCounter - 1) / kNormalsPerCounter;
  const int64_t counters = tasks / a.blocks * per_record;
  launch(step<T>, grid((counters + kThreads - 1) / kThreads), kThreads, 0, stream, a, per_record, counters);
}

}  // namespace

int sampler_step(const SamplerArgs& a, int64_t tasks, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch_step<T>(a, tasks, static_cast<cudaStream_t>(stream)));
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
