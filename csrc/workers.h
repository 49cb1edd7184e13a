// Threads and memory for CPU engines that run long calls of their own.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "observer.h"
#include "team.h"

namespace ecgtwin {

// Zeroed memory on huge pages where the system grants them: kernels stream through it, and page walks cost 2 to 9 %.
// Pages that nothing touches cost nothing.
class HugeMemory {
 public:
  explicit HugeMemory(int64_t bytes) : size_(static_cast<size_t>(bytes) + kPage) {
    void* mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    mapped_ = static_cast<char*>(mapped);
#if defined(MADV_HUGEPAGE)
    madvise(mapped_, size_, MADV_HUGEPAGE);
#endif
  }
  ~HugeMemory() {
    ECGTWIN_UNPOISON(mapped_, size_);
    munmap(mapped_, size_);
  }
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;
  char* data() const { return mapped_ + (kPage - reinterpret_cast<uintptr_t>(mapped_) % kPage) % kPage; }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  size_t size_;
  char* mapped_;
};

// Calls work(0) here and work(1), ... each on a thread of its own; returns when all have. Where it can, on the pool of
// OpenMP, which torch uses too: idle threads of that pool spin for milliseconds, in the way of any others.
// Until all have returned, tick() is called here now and then, and *stop set where it says no.
template <typename Work>
void run_threads(int64_t count, const Work& work, bool (*tick)(), int64_t* stop) {
  int64_t finished = 0;
  const auto run = [&](int64_t thread) {
    work(thread);
    __atomic_add_fetch(&finished, 1, __ATOMIC_RELEASE);
    if (thread != 0) return;
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < count) {
      sched_yield();
      if (!tick()) __atomic_store_n(stop, 1, __ATOMIC_RELAXED);
    }
  };
#if defined(_OPENMP)
  bool enough = false;
#pragma omp parallel num_threads(static_cast<int>(count))
  {
    // Kernels wait for each other: all threads must be there, or none.
    if (omp_get_num_threads() == count) {
      if (omp_get_thread_num() == 0) enough = true;
      run(omp_get_thread_num());
    }
  }
  if (enough) return;
#endif
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < count; ++i) threads.emplace_back([&run, i] { run(i); });
  run(0);
  for (std::thread& thread : threads) thread.join();
}

// How threads share `batch` records: some records by one thread each, the last ones by teams.
struct Shares {
  int64_t threads, alone, teams, team_size;
};

// threads: at most so many. parts: into how many a record can be split.
inline Shares share_records(int64_t batch, int64_t threads, int64_t parts) {
  const int64_t rest = batch % threads, size = rest ? std::min(parts, threads / rest) : 1;
  if (size == 1) return {std::min(batch, threads), batch, 0, 1};
  const int64_t alone = batch - rest;
  return {alone ? threads : rest * size, alone, rest, size};
}

// A crew with its teams and memory. Teams and scratch take their memory in carve_team(team, arena) and
// carve_scratch(scratch, arena), which are called twice: to measure, and for good.
template <class TeamType, class Scratch>
class HiredCrew {
 public:
  template <class CarveTeam, class CarveScratch>
  HiredCrew(int64_t batch, const Shares& shares, const CarveTeam& carve_team, const CarveScratch& carve_scratch)
      : threads_(shares.threads),
        single_(shares.alone ? shares.threads : 0),
        joint_(shares.teams),
        scratch_(shares.threads) {
    for (TeamType& team : single_) team.team.size = 1;
    for (TeamType& team : joint_) team.team.size = shares.team_size;
    const auto carve = [&](Arena arena) {
      for (Scratch& own : scratch_) carve_scratch(own, arena);
      for (TeamType& team : single_) carve_team(team, arena);
      for (TeamType& team : joint_) carve_team(team, arena);
      return arena.used;
    };
    memory_ = std::make_unique<HugeMemory>(carve({nullptr, 0}));
    carve({memory_->data(), 0});
    crew_ = {batch, shares.alone, shares.team_size, &next_, single_.data(), joint_.data(), scratch_.data(), 
             &tick_observer};
  }
  HiredCrew(const HiredCrew&) = delete;
  HiredCrew& operator=(const HiredCrew&) = delete;

  const Crew<TeamType, Scratch>& crew() const { return crew_; }

  template <typename Work>
  void run(const Work& work, int64_t* stop) const {
    run_threads(threads_, work, &tick_observer, stop);
  }

 private:
  int64_t threads_, next_ = 0;
  std::vector<TeamType> single_, joint_;
  std::vector<Scratch> scratch_;
  std::unique_ptr<HugeMemory> memory_;
  Crew<TeamType, Scratch> crew_;
};

}  // namespace ecgtwin
