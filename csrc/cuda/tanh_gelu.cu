// CUDA kernel of tanh_gelu and its gradient: a thread takes 16 bytes at a time.
#include "tanh_gelu.h"

#include "tile.cuh"

namespace ecgtwin::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool gradient>
__global__ void __launch_bounds__(kThreads) elements(GeluArgs a) {
  using C = Compute<T>;
  const T *x = static_cast<const T*>(a.x), *grad = static_cast<const T*>(a.grad);
  T* out = static_cast<T*>(a.out);
  const bool wide = aligned(x) && aligned(out) && (!gradient || aligned(grad));
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kVector<T>;
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector<T>;
  for (; first < a.count; first += step) {
    const auto result = [](T value, T incoming) -> C {
      return gelu_element<gradient>(C(load(value)), C(load(incoming)));
    };
    if (wide && first + kVector<T> <= a.count) {
      const Vector<T> from = load_vector(x + first), incoming = gradient ? load_vector(grad + first) : Vector<T>{};
      Vector<T> to;
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) store(&to.at[i], result(from.at[i], incoming.at[i]));
      *reinterpret_cast<Vector<T>*>(out + first) = to;
    } else {
      for (int64_t i = first; i < a.count && i < first + kVector<T>; ++i)
        store(out + i, result(x[i], gradient ? grad[i] : T{}));
    }
  }
}

template <typename T>
void launch_elements(const GeluArgs& a, cudaStream_t stream) {
  const int64_t per_block = kThreads * kVector<T>;
  const auto kernel = a.grad ? elements<T, true> : elements<T, false>;
  launch(kernel, grid((a.count + per_block - 1) / per_block), kThreads, 0, stream, a);
}

}  // namespace

int tanh_gelu(const GeluArgs& a, int64_t, void* stream) {
  ECGTWIN_DISPATCH(a.dtype, launch_elements<T>(a, static_cast<cudaStream_t>(stream)));
  return cudaGetLastError();
}

}  // namespace ecgtwin::cuda
