// The emulated kernels as C functions on raw pointers, for cuda_emulation.py: each takes the address of its arguments
// and the number of tasks, and returns 0 or, with a message in last_error, something else.
#include <string>

#include "emulation.h"
#include "group_norm_silu.h"
#include "linear.h"
#include "modulated_norm.h"
#include "multihead_attention.h"
#include "rope_embed.h"
#include "sampler_step.h"
#include "tanh_gelu.h"
#include "trajectory.h"

namespace {

std::string message;

template <typename Args>
int run(int (*kernel)(const Args&, int64_t, void*), const void* args, int64_t tasks) {
  try {
    message = "the launcher refused its arguments";
    return kernel(*static_cast<const Args*>(args), tasks, nullptr);
  } catch (const std::exception& error) {
    message = error.what();
    return -1;
  }
}

}  // namespace

int probe(const int64_t& kind, int64_t tasks, void* numbers);
void warpgroup_probe(int64_t kind, float* numbers);

extern "C" {

const char* last_error() { return message.c_str(); }

void set_order(int order, uint64_t seed) {
  ecgtwin::emulation::order = static_cast<ecgtwin::emulation::Order>(order);
  ecgtwin::emulation::random_source.seed(seed);
}

void set_newest(int newest) { ecgtwin::emulation::newest = newest; }

int run_probe(int64_t kind, float* numbers) {
  try {
    return probe(kind, 1, numbers);
  } catch (const std::exception& error) {
    message = error.what();
    return -1;
  }
}

int run_warpgroup_probe(int64_t kind, float* numbers) {
  try {
    warpgroup_probe(kind, numbers);
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return -1;
  }
}

#define EXPORT(NAME, ARGS)                                                                                        \
  int NAME(const void* args, int64_t tasks) { return run<ecgtwin::ARGS>(ecgtwin::cuda::NAME, args, tasks); }      \
  int64_t NAME##_size() { return sizeof(ecgtwin::ARGS); }

EXPORT(modulated_norm, NormArgs)
EXPORT(modulated_norm_backward, NormGradArgs)
EXPORT(rope_embed, RopeArgs)
EXPORT(rope_embed_backward, RopeGradArgs)
EXPORT(sampler_step, SamplerArgs)
EXPORT(multihead_attention, AttentionArgs)
EXPORT(multihead_attention_backward, AttentionGradArgs)
EXPORT(tanh_gelu, GeluArgs)
EXPORT(group_norm_silu, GroupNormArgs)
EXPORT(group_norm_silu_backward, GroupNormGradArgs)
EXPORT(linear, LinearArgs)
EXPORT(trajectory, TrajectoryArgs)

}  // extern "C"
