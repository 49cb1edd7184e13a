// The asynchronous side of sm_90 on the host: what it sees of shared memory, barriers in shared memory, bulk copies.
//
// Asynchronous readers see what a thread has stored by `emulation::store` once that thread has passed a proxy fence,
// and what bulk copies have brought. Bytes of which they see something else than the threads do read as poison: that
// shows a missing fence as well as memory that is filled again too early. A bulk copy poisons its target at once. It
// lands when no thread can go on without it, or, in descending order, at once; in shuffled order chance decides. The
// first shows who does not wait for it, the second who relies on others' waiting.
#pragma once

#include <map>

#include "emulation.h"

namespace ecgtwin::emulation {

struct SharedBarrier {
  Barrier phase;
  unsigned expected = 0, missing = 0;  // arrivals of a phase, and those still to come
  size_t bytes = 0;                    // on their way
};

struct Range {
  size_t first, bytes;
};

struct BulkCopy {
  unsigned char* to;
  const void* from;
  size_t bytes;
  SharedBarrier* barrier;
};

struct AsyncSide {
  std::vector<unsigned char> seen;            // shared memory
  std::vector<std::vector<Range>> stored;     // by each thread since its last proxy fence
  std::map<const void*, SharedBarrier> barriers;
  std::deque<BulkCopy> copies;
};
inline AsyncSide async_side;

template <typename V>
void store(void* place, const V& value) {
  memcpy(place, &value, sizeof(V));
  const size_t first = static_cast<size_t>(static_cast<unsigned char*>(place) - block.shared);
  async_side.stored[block.current].push_back({first, sizeof(V)});
}

inline void fence_proxy() {
  std::vector<Range>& stored = async_side.stored[block.current];
  for (const Range& range : stored)
    memcpy(async_side.seen.data() + range.first, block.shared + range.first, range.bytes);
  stored.clear();
}

// Bits of the bfloat16 element at a shared address.
inline uint16_t read_async(size_t address) {
  if (address + 2 > async_side.seen.size()) throw std::logic_error("a factor lies beyond shared memory");
  uint16_t bits;
  memcpy(&bits, async_side.seen.data() + address, sizeof(bits));
  return memcmp(&bits, block.shared + address, sizeof(bits)) == 0 ? bits : 0xffff;
}

inline SharedBarrier& barrier_at(const void* place) {
  const auto found = async_side.barriers.find(place);
  if (found == async_side.barriers.end()) throw std::logic_error("a barrier is used before it is initialised");
  return found->second;
}

inline void advance_phase(SharedBarrier& barrier) {
  if (barrier.missing > 0 || barrier.bytes > 0) return;
  barrier.missing = barrier.expected;
  ++barrier.phase.generation;
}

inline void init_barrier(const void* place, unsigned expected) {
  if (reinterpret_cast<uintptr_t>(place) % 8 != 0) throw std::logic_error("a barrier is not aligned");
  SharedBarrier& barrier = async_side.barriers[place];
  barrier.expected = barrier.missing = expected;
}

// Arrives, and the phase waits for so many bytes more.
inline void arrive_at(const void* place, size_t bytes) {
  SharedBarrier& barrier = barrier_at(place);
  if (barrier.missing == 0) throw std::logic_error("more threads arrive at a barrier than it expects");
  barrier.bytes += bytes;
  --barrier.missing;
  advance_phase(barrier);
}

// Waits until the phase of this parity is over.
inline void wait_phase(const void* place, unsigned parity) {
  const Barrier& phase = barrier_at(place).phase;
  if (phase.generation % 2 == parity) wait_at(phase);
}

inline bool land_copy() {
  if (async_side.copies.empty()) return false;
  const BulkCopy copy = async_side.copies.front();
  async_side.copies.pop_front();
  if (copy.barrier->bytes < copy.bytes) throw std::logic_error("a barrier expects fewer bytes than are copied");
  memcpy(copy.to, copy.from, copy.bytes);
  memcpy(async_side.seen.data() + (copy.to - block.shared), copy.from, copy.bytes);
  copy.barrier->bytes -= copy.bytes;
  advance_phase(*copy.barrier);
  return true;
}

// The barrier expects it already.
inline void bulk_copy(void* to, const void* from, size_t bytes, const void* place) {
  const auto misplaced = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 != 0; };
  if (misplaced(to) || misplaced(from) || bytes % 16 != 0) throw std::logic_error("a bulk copy is not aligned");
  unsigned char* target = static_cast<unsigned char*>(to);
  memset(target, kPoison, bytes);
  memset(async_side.seen.data() + (target - block.shared), kPoison, bytes);
  async_side.copies.push_back({target, from, bytes, &barrier_at(place)});
  if (order == Order::descending || (order == Order::shuffled && random_source() % 2)) land_copy();
}

inline void begin_async_side(size_t shared_bytes) {
  async_side = AsyncSide();
  async_side.seen.assign(shared_bytes, kPoison);
  async_side.stored.resize(block.fibers.size());
}

inline void end_async_side() {
  if (!async_side.copies.empty()) throw std::logic_error("a block ended while bulk copies were under way");
}

inline const bool async_side_is_there = (parts.push_back({begin_async_side, land_copy, end_async_side}), true);

}  // namespace ecgtwin::emulation
