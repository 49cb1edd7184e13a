// One step of any sampler (DDPM, DDIM, DPM-Solver++), a linear form in x, eps, two x0 and noise:
//   x0 = (x - sigma eps) inv_alpha, clamped to +-clip if clip > 0
//   next = k_x x + k_x0 x0 + k_prev x0_prev + k_eps eps + k_noise noise
// Arithmetic for CPU and CUDA, and the arguments of the kernel.
#pragma once

#include "common.h"
#include "kernel.h"
#include "philox.h"

namespace ecgtwin {

constexpr int64_t kCoefficients = 8;

// A task is one block of kBlockElements elements of one record.
constexpr int64_t kBlockElements = 64;

struct SamplerArgs {
  const void* x;
  const void* eps;
  const void* x0_prev;         // null: absent, and its term with it
  const void* noise;           // null: drawn here where k_noise is not zero
  const float* coefficients;   // sigma, inv_alpha, clip, k_x, k_x0, k_prev, k_eps, k_noise; with keys a row a step
  const int64_t* keys;         // where the kernel runs: seed, first_index, step; null: they are the fields below
  void* next;
  void* x0;
  int64_t elements, blocks;    // of one record
  uint64_t seed, first_index;
  uint32_t step;
  Dtype dtype;
};

// With the keys in its fields.
ECGTWIN_INLINE SamplerArgs keyed(SamplerArgs a) {
  if (a.keys) {
    a.seed = static_cast<uint64_t>(a.keys[0]);
    a.first_index = static_cast<uint64_t>(a.keys[1]);
    a.step = static_cast<uint32_t>(a.keys[2]);
    a.coefficients += a.step * kCoefficients;
  }
  return a;
}

ECGTWIN_INLINE double mul(double a, double b) { return a * b; }
ECGTWIN_INLINE double add(double a, double b) { return a + b; }

// The coefficients in the compute type C; each operation on them is rounded once.
template <typename C>
struct SamplerStep {
  C sigma, inv_alpha, clip, k_x, k_x0, k_prev, k_eps, k_noise;
};

template <typename C>
ECGTWIN_INLINE SamplerStep<C> read_step(const float* row) {
  return {C(row[0]), C(row[1]), C(row[2]), C(row[3]), C(row[4]), C(row[5]), C(row[6]), C(row[7])};
}

template <typename C>
ECGTWIN_INLINE C predicted_x0(const SamplerStep<C>& k, C x, C eps) {
  const C x0 = mul(add(x, -mul(k.sigma, eps)), k.inv_alpha);
  const C clipped = x0 < -k.clip ? -k.clip : (x0 > k.clip ? k.clip : x0);
  return k.clip > C(0) ? clipped : x0;
}

// The caller passes 0 for what is absent, which leaves the sum as it is.
template <typename C>
ECGTWIN_INLINE C next_x(const SamplerStep<C>& k, C x, C x0, C x0_prev, C eps, C noise) {
  C next = add(mul(k.k_x, x), mul(k.k_x0, x0));
  next = add(next, mul(k.k_prev, x0_prev));
  next = add(next, mul(k.k_eps, eps));
  return add(next, mul(k.k_noise, noise));
}

ECGTWIN_DECLARE_KERNEL(sampler_step, SamplerArgs)

}  // namespace ecgtwin
