// The most that this CPU's units do of products, with all operands in registers.
//
//   peak THREADS SECONDS    prints "bfloat16 965.1" in GFLOP/s, or "float32 ..." where the CPU has no AVX512_BF16
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__x86_64__)

namespace {

struct Kind {
  const char* name;
  double flop;  // of one instruction
  void (*run)(const float* one, long repeats);
};

constexpr int kSums = 15;
constexpr long kRepeats = 1 << 14;

// Enough independent sums that none waits for its own last addition; AVX2 has one register more.
#define PEAK_SUM(OP, REGISTER, N) OP " %%" REGISTER "15,%%" REGISTER "15,%%" REGISTER #N "\n\t"
#define PEAK_SUMS(OP, R)                                                                               \
  PEAK_SUM(OP, R, 0) PEAK_SUM(OP, R, 1) PEAK_SUM(OP, R, 2) PEAK_SUM(OP, R, 3) PEAK_SUM(OP, R, 4)       \
  PEAK_SUM(OP, R, 5) PEAK_SUM(OP, R, 6) PEAK_SUM(OP, R, 7) PEAK_SUM(OP, R, 8) PEAK_SUM(OP, R, 9)       \
  PEAK_SUM(OP, R, 10) PEAK_SUM(OP, R, 11) PEAK_SUM(OP, R, 12) PEAK_SUM(OP, R, 13) PEAK_SUM(OP, R, 14)

// Assembly, so that neither the compiler's options nor its optimiser have a say.
#define PEAK_LOOP(NAME, OP, REGISTER)                                                                       \
  void NAME(const float* one, long repeats) {                                                               \
    asm volatile("vbroadcastss (%1),%%" REGISTER "15\n"                                                     \
                 "1:\n\t" PEAK_SUMS(OP, REGISTER) "dec %0\n\t"                                              \
                 "jnz 1b\n\t"                                                                               \
                 "vzeroupper"                                                                               \
                 : "+r"(repeats)                                                                            \
                 : "r"(one)                                                                                 \
                 : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                           \
  }

PEAK_LOOP(bfloat16_avx512, "vdpbf16ps", "zmm")
PEAK_LOOP(float32_avx512, "vfmadd231ps", "zmm")
PEAK_LOOP(float32_avx2, "vfmadd231ps", "ymm")

Kind best_kind() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bf16")) return {"bfloat16", 64, bfloat16_avx512};
  if (__builtin_cpu_supports("avx512f")) return {"float32", 32, float32_avx512};
  if (__builtin_cpu_supports("fma")) return {"float32", 16, float32_avx2};
  return {nullptr, 0, nullptr};
}

double flop_per_second(const Kind& kind, double seconds, std::atomic<int>& absent) {
  using Clock = std::chrono::steady_clock;
  const float one = 1;
  for (--absent; absent > 0;) {
  }
  double done = 0, elapsed = 0;
  for (const auto began = Clock::now(); elapsed < seconds;) {
    kind.run(&one, kRepeats);
    done += kind.flop * kSums * kRepeats;
    elapsed = std::chrono::duration<double>(Clock::now() - began).count();
  }
  return done / elapsed;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s THREADS SECONDS\n", arguments[0]);
    return 2;
  }
  const Kind kind = best_kind();
  if (kind.name == nullptr) {
    std::fprintf(stderr, "the CPU has neither AVX512_BF16 nor FMA\n");
    return 1;
  }
  std::vector<double> rates(std::atoi(arguments[1]));
  std::atomic<int> absent{static_cast<int>(rates.size())};
  std::vector<std::thread> threads;
  for (double& rate : rates)
    threads.emplace_back([&] { rate = flop_per_second(kind, std::atof(arguments[2]), absent); });
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (double rate : rates) sum += rate;
  std::printf("%s %.1f\n", kind.name, sum * 1e-9);
}

#else

int main() {
  std::fprintf(stderr, "the CPU is not an x86-64\n");
  return 1;
}

#endif
