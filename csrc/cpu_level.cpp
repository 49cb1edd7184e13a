#include "cpu_level.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace ecgtwin {

CpuLevel best_cpu_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return __builtin_cpu_supports("avx512bf16") ? CpuLevel::avx512bf16 : CpuLevel::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuLevel::avx2;
#endif
  return CpuLevel::generic;
}

namespace {

CpuLevel initial_level() {
  const char* cap = std::getenv("ECGTWIN_CPU");
  const CpuLevel best = best_cpu_level();
  if (cap == nullptr) return best;
  if (std::string(cap) == "generic") return CpuLevel::generic;
  if (std::string(cap) == "avx2") return std::min(best, CpuLevel::avx2);
  if (std::string(cap) == "avx512") return std::min(best, CpuLevel::avx512);
  return best;
}

std::atomic<CpuLevel>& current_level() {
  static std::atomic<CpuLevel> level{initial_level()};
  return level;
}

}  // namespace

CpuLevel cpu_level() { return current_level().load(std::memory_order_relaxed); }

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The built-in wants literals.
#define ECGTWIN_FEATURE(NAME) \
  if (__builtin_cpu_supports(NAME)) found.push_back(NAME)
  ECGTWIN_FEATURE("avx2");
  ECGTWIN_FEATURE("fma");
  ECGTWIN_FEATURE("avx512f");
  ECGTWIN_FEATURE("avx512bw");
  ECGTWIN_FEATURE("avx512dq");
  ECGTWIN_FEATURE("avx512vl");
  ECGTWIN_FEATURE("avx512vnni");
  ECGTWIN_FEATURE("avx512bf16");
#undef ECGTWIN_FEATURE
#endif
  return found;
}

void set_cpu_level(CpuLevel level) { current_level().store(std::min(level, best_cpu_level())); }

}  // namespace ecgtwin
