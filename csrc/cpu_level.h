// Which instruction set the CPU kernels use, decided at run time.
#pragma once

#include <string>
#include <vector>

namespace ecgtwin {

enum class CpuLevel : int { generic, avx2, avx512, avx512bf16 };
constexpr int kCpuLevels = 4;

// The best level that this CPU has, or the lower one set by ECGTWIN_CPU or set_cpu_level.
CpuLevel cpu_level();
CpuLevel best_cpu_level();
void set_cpu_level(CpuLevel level);

// Of the instruction sets that kernels use or may come to use, those that this CPU has.
std::vector<std::string> cpu_features();

}  // namespace ecgtwin
