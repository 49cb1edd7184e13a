// Makes a .cu file C++ for the host, so that its kernels run on CPU memory in tests. launch.cuh includes this where
// the compiler is not nvcc.
//
// Blocks run one after the other. The threads of a block are fibers that run until they wait: at __syncthreads for the
// block, at shuffles and matrix products for their warp. One warp runs as far as it can before the next one starts, so
// that warps are never together by chance. What real hardware leaves open is made visible:
// - shared memory holds NaN when a block begins, and must be untouched beyond its end when it is over;
// - copies to shared memory that run beside a thread leave NaN there until it waits for them;
// - blocks, warps and lanes run in the order that `order` names: a race gives different results in different orders;
// - threads that wait at different barriers, or lanes that do different warp operations, are errors.
// Products of warpgroups and copies by mbarrier, in other files, are parts that hook into the life of a block.
// What it cannot see: races inside a stretch without barriers that no order of whole stretches shows, and time.
// Compile with -U_FORTIFY_SOURCE, whose longjmp refuses to change stacks.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
using cudaStream_t = void*;
constexpr int cudaSuccess = 0, cudaErrorInvalidValue = 1;

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
inline int cudaGetLastError() { return cudaSuccess; }

namespace ecgtwin::emulation {

enum class Order { ascending, descending, shuffled };
inline Order order = Order::ascending;
inline bool newest = false;  // whether the device has what only the newest architecture has
inline std::mt19937_64 random_source;

constexpr unsigned kLanes = 32;
constexpr size_t kStack = 64 << 10, kGuard = 256;
constexpr unsigned char kPoison = 0xff;  // NaN in float32, float64 and bfloat16

enum class Operation { none, shuffle, sync, load_matrices, product, group_product };

struct Barrier {
  unsigned arrived = 0, generation = 0;
  Operation operation = Operation::none;
};

// Lanes leave their operands in slots of alternate halves: a lane may be one operation ahead of the others.
struct Warp {
  Barrier barrier;
  alignas(16) unsigned char slots[2][kLanes][32];
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
using CopyGroup = std::vector<Copy>;

struct Fiber {
  ucontext_t start;
  std::unique_ptr<char[]> stack;
  jmp_buf place;
  bool started = false, done = false;
  const Barrier* waits_at = nullptr;
  unsigned generation = 0;
  std::deque<CopyGroup> copies = {{}};  // those under way; the last group is open
};

struct Block {
  std::function<void()> kernel;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<unsigned char> memory;
  unsigned char* shared = nullptr;
  unsigned current = 0;
  jmp_buf scheduler;
  std::exception_ptr error;
};
inline Block block;

// What a further part of the hardware does when a block begins and ends, and when no thread can go on: whether any can
// after that.
struct Part {
  void (*begin)(size_t shared_bytes);
  bool (*go_on)();
  void (*end)();
};
inline std::vector<Part> parts;

inline void yield() {
  Fiber& fiber = block.fibers[block.current];
  if (!_setjmp(fiber.place)) _longjmp(block.scheduler, 1);
}

// Waits until the barrier's generation changes.
inline void wait_at(const Barrier& barrier) {
  Fiber& fiber = block.fibers[block.current];
  fiber.waits_at = &barrier;
  fiber.generation = barrier.generation;
  yield();
  fiber.waits_at = nullptr;
}

// Waits until `count` threads have arrived, all of them with the same operation.
inline void arrive(Barrier& barrier, unsigned count, Operation operation) {
  if (barrier.arrived == 0) barrier.operation = operation;
  if (barrier.operation != operation) throw std::logic_error("lanes of a warp do different operations at once");
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  wait_at(barrier);
}

inline unsigned lane() { return block.current % kLanes; }

inline void begin_copy(void* to, const void* from, size_t bytes) {
  const auto misplaced = [bytes](const void* place) { return reinterpret_cast<uintptr_t>(place) % bytes != 0; };
  if (misplaced(to) || misplaced(from)) throw std::logic_error("a copy to shared memory is not aligned");
  memset(to, kPoison, bytes);
  block.fibers[block.current].copies.back().push_back({to, from, bytes});
}

inline void commit_copies() { block.fibers[block.current].copies.emplace_back(); }

inline void wait_copies(size_t pending) {
  std::deque<CopyGroup>& copies = block.fibers[block.current].copies;
  for (; copies.size() > pending + 1; copies.pop_front())
    for (const Copy& copy : copies.front()) memcpy(copy.to, copy.from, copy.bytes);
}

// What every lane of a warp brought to an operation.
template <typename V>
class Brought {
 public:
  Brought(const V& own, Operation operation) {
    static_assert(sizeof(V) <= sizeof(Warp::slots[0][0]));
    Warp& warp = block.warps[block.current / kLanes];
    slots_ = warp.slots[warp.barrier.generation % 2];
    memcpy(slots_[lane()], &own, sizeof(V));
    arrive(warp.barrier, kLanes, operation);
  }
  V operator[](unsigned lane) const {
    V value;
    memcpy(&value, slots_[lane], sizeof(V));
    return value;
  }

 private:
  unsigned char (*slots_)[32];
};

inline void require_full(unsigned mask) {
  if (mask != 0xffffffffu) throw std::logic_error("only whole warps are emulated");
}

// Where every fiber begins. It never returns: each block resumes it for another round.
inline void fiber_main() {
  for (;;) {
    try {
      block.kernel();
    } catch (...) {
      block.error = std::current_exception();
    }
    block.fibers[block.current].done = true;
    yield();
  }
}

inline void resume(unsigned index) {
  Fiber& fiber = block.fibers[index];
  block.current = index;
  threadIdx.x = index;
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.stack.reset(new char[kStack]);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

inline std::vector<unsigned> in_order(unsigned count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order == Order::descending) std::reverse(indices.begin(), indices.end());
  if (order == Order::shuffled) std::shuffle(indices.begin(), indices.end(), random_source);
  return indices;
}

// Lets each lane of a warp run until it waits; whether any of them could.
inline bool advance(unsigned warp) {
  bool progress = false;
  for (unsigned lane : in_order(kLanes)) {
    const unsigned index = warp * kLanes + lane;
    const Fiber& fiber = block.fibers[index];
    if (fiber.done || (fiber.waits_at && fiber.waits_at->generation == fiber.generation)) continue;
    resume(index);
    if (block.error) std::rethrow_exception(block.error);
    progress = true;
  }
  return progress;
}

inline void run_block(size_t shared_bytes) {
  memset(block.shared, kPoison, shared_bytes + kGuard);
  for (Fiber& fiber : block.fibers) fiber.done = false;
  for (const Part& part : parts) part.begin(shared_bytes);
  const auto done = [](const Fiber& fiber) { return fiber.done; };
  while (!std::all_of(block.fibers.begin(), block.fibers.end(), done)) {
    bool progress = false;
    for (unsigned warp : in_order(static_cast<unsigned>(block.warps.size())))
      while (advance(warp)) progress = true;
    for (const Part& part : parts) progress = progress || part.go_on();
    if (!progress) throw std::logic_error("threads of a block wait at different barriers, or for one that has ended");
  }
  const auto copying = [](const Fiber& fiber) { return fiber.copies.size() > 1 || !fiber.copies.back().empty(); };
  if (std::any_of(block.fibers.begin(), block.fibers.end(), copying))
    throw std::logic_error("a thread ended while copies of its own were under way");
  for (const Part& part : parts) part.end();
  for (size_t i = 0; i < kGuard; ++i)
    if (block.shared[shared_bytes + i] != kPoison) throw std::logic_error("a kernel wrote beyond its shared memory");
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared_bytes,
            const Arguments&... arguments) {
  if (threads % kLanes != 0) throw std::logic_error("only whole warps are emulated");
  block = Block();
  block.kernel = [&] { kernel(arguments...); };
  block.fibers = std::vector<Fiber>(threads);
  block.warps = std::vector<Warp>(threads / kLanes);
  block.memory.resize(shared_bytes + kGuard + 128);
  void* memory = block.memory.data();
  size_t room = block.memory.size();
  block.shared = static_cast<unsigned char*>(std::align(128, shared_bytes + kGuard, memory, room));
  gridDim.x = blocks;
  blockDim.x = threads;
  for (unsigned index : in_order(blocks)) {
    blockIdx.x = index;
    run_block(shared_bytes);
  }
}

}  // namespace ecgtwin::emulation

inline void __syncthreads() {
  using namespace ecgtwin::emulation;
  arrive(block.barrier, static_cast<unsigned>(block.fibers.size()), Operation::sync);
}

inline void __syncwarp() { ecgtwin::emulation::Brought<int>(0, ecgtwin::emulation::Operation::sync); }

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int lanes) {
  using namespace ecgtwin::emulation;
  require_full(mask);
  return Brought<V>(value, Operation::shuffle)[lane() ^ static_cast<unsigned>(lanes)];
}

template <typename V>
V __shfl_sync(unsigned mask, V value, int from) {
  using namespace ecgtwin::emulation;
  require_full(mask);
  return Brought<V>(value, Operation::shuffle)[static_cast<unsigned>(from) % kLanes];
}

template <typename V>
V __ldg(const V* place) {
  return *place;
}

template <typename V>
V atomicAdd(V* place, V value) {
  const V before = *place;
  *place += value;
  return before;
}
