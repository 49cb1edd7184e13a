// Threads that work on one record together: how they meet, and memory carved for them. No torch headers here.
#pragma once

#include <sched.h>

#include <cstdint>

#include "common.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define ECGTWIN_POISON(START, SIZE) ASAN_POISON_MEMORY_REGION(START, SIZE)
#define ECGTWIN_UNPOISON(START, SIZE) ASAN_UNPOISON_MEMORY_REGION(START, SIZE)
#else
#define ECGTWIN_POISON(START, SIZE)
#define ECGTWIN_UNPOISON(START, SIZE)
#endif

namespace ecgtwin {

// Hands out 64-byte aligned parts of one block of memory, a forbidden zone behind each where a sanitizer watches;
// from a null block, only measures.
struct Arena {
  char* base;
  int64_t used;

  template <typename T>
  T* take(int64_t count) {
    constexpr int64_t line = 64;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T)), end = used + (bytes + line - 1) / line * line;
    T* part = base ? reinterpret_cast<T*>(base + used) : nullptr;
    if (base) {
      ECGTWIN_POISON(base + used + bytes, end - used - bytes + line);
    }
    used = end + line;
    return part;
  }
};

// What the members of a team share beside their data. Zero-filled memory is a team of which no member has arrived.
struct Team {
  alignas(64) int64_t arrived;
  alignas(64) int64_t generation;
  alignas(64) int64_t size;
};

// Returns once all members have arrived. Spins for a while and then yields, for a core may be busy with others' work.
static inline void meet(Team& team) {
  if (team.size == 1) return;
  const int64_t generation = __atomic_load_n(&team.generation, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&team.arrived, 1, __ATOMIC_ACQ_REL) == team.size) {
    __atomic_store_n(&team.arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&team.generation, generation + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int spins = 0; __atomic_load_n(&team.generation, __ATOMIC_ACQUIRE) == generation;) {
    if (++spins > 2000)
      sched_yield();
    else
      __builtin_ia32_pause();
  }
}

// Part `member` of `size` nearly equal parts of `count` units.
struct Range {
  int64_t begin, end;
};
static inline Range share_of(int64_t count, int64_t member, int64_t size) {
  return {count * member / size, count * (member + 1) / size};
}

// How threads share records: each takes records 0..alone one by one from `next`; then teams of `team_size` threads take
// one each of the others.
template <class TeamType, class Scratch>
struct Crew {
  int64_t batch, alone, team_size;
  int64_t* next;
  TeamType *single, *joint;  // by thread; by team
  const Scratch* scratch;    // by thread
  bool (*tick)();            // for thread 0 to call between units of work; false: they should end
};

// Calls work(record, member, team) for all that thread `thread` has a share in, until it says no. To its team it goes even
// then: the others may be waiting for it there.
template <class TeamType, class Scratch, class Work>
static inline void take_records(const Crew<TeamType, Scratch>& crew, int64_t thread, const Work& work) {
  for (int64_t record; (record = __atomic_fetch_add(crew.next, 1, __ATOMIC_RELAXED)) < crew.alone;)
    if (!work(record, int64_t{0}, crew.single[thread])) break;
  const int64_t team = thread / crew.team_size, record = crew.alone + team;
  if (record < crew.batch) work(record, thread % crew.team_size, crew.joint[team]);
}

}  // namespace ecgtwin
