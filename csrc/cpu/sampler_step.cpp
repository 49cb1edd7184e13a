// CPU kernel of the sampler step, with the noise drawn on the spot.
#include "sampler_step.h"

#include "cpu/noise.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

constexpr int64_t kCounters = kBlockElements / kNormalsPerCounter;

template <typename T>
void step(const SamplerArgs& given, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const SamplerArgs a = keyed(given);
  const SamplerStep<C> k = read_step<C>(a.coefficients);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t record = task / a.blocks, block = task % a.blocks, first = block * kBlockElements;
    const int64_t size = a.elements - first < kBlockElements ? a.elements - first : kBlockElements;
    const int64_t offset = record * a.elements + first;
    const T* x = static_cast<const T*>(a.x) + offset;
    const T* eps = static_cast<const T*>(a.eps) + offset;
    const T* noises = a.noise ? static_cast<const T*>(a.noise) + offset : nullptr;
    const T* previous = a.x0_prev ? static_cast<const T*>(a.x0_prev) + offset : nullptr;
    T* next = static_cast<T*>(a.next) + offset;
    T* x0 = static_cast<T*>(a.x0) + offset;

    float drawn[kBlockElements] = {};
    if (!noises && k.k_noise != C(0))
      draw_normals<kCounters>(a.seed, a.first_index + static_cast<uint64_t>(record), a.step,
                              static_cast<uint32_t>(block * kCounters), drawn);
    C noise[kBlockElements], prior[kBlockElements];
    for (int64_t i = 0; i < size; ++i) {
      noise[i] = noises ? load(noises[i]) : C(drawn[i]);
      prior[i] = previous ? load(previous[i]) : C(0);
    }
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      const C x_value = load(x[i]), eps_value = load(eps[i]);
      const C predicted = predicted_x0<C>(k, x_value, eps_value);
      store(x0 + i, predicted);
      store(next + i, next_x<C>(k, x_value, predicted, prior[i], eps_value, noise[i]));
    }
  }
}

}  // namespace

void sampler_step(const SamplerArgs& a, int64_t begin, int64_t end) {
  ECGTWIN_DISPATCH(a.dtype, (step<T>(a, begin, end)));
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
