// Products of warpgroups (wgmma of sm_90a) on the host, by the meaning of every bit of their descriptors.
//
// A product takes place as late as it may: its sums hold NaN until the thread waits for its group, and it reads shared
// memory then; if that has changed since it was issued, they become NaN. Errors are: a product without a fence since
// the thread last waited, sums that are touched before the wait, warps of a warpgroup that do not issue the same
// products, and products under way when a block ends.
#pragma once

#include "common.h"
#include "emulation_async.h"

namespace ecgtwin::emulation {

constexpr unsigned kGroupWarps = 4, kGroupLanes = kGroupWarps * kLanes, kDepth = 16;

// A factor in shared memory: matrices of 8 x 8 elements, 128 bytes each.
struct Described {
  explicit Described(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4), deeper((descriptor >> 16 & 0x3fff) << 4),
        further((descriptor >> 32 & 0x3fff) << 4) {
    const uint64_t meaningful = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32;
    if (descriptor & ~meaningful) throw std::logic_error("only descriptors without swizzle and offset are emulated");
  }
  // Of row `index` of the left, or column `index` of the right factor.
  size_t address(unsigned index, unsigned depth, bool transposed) const {
    const unsigned row = transposed ? depth % 8 : index % 8, column = transposed ? index % 8 : depth % 8;
    return start + index / 8 * further + depth / 8 * deeper + row * 16 + column * 2;
  }
  size_t start, deeper, further;
};

// How a warp's instruction reads: the same for all warps of a warpgroup.
struct GroupProduct {
  unsigned columns;
  bool transposed, left_is_shared, adds;
  uint64_t left, right;
};
inline bool operator==(const GroupProduct& a, const GroupProduct& b) {
  return a.columns == b.columns && a.transposed == b.transposed && a.left_is_shared == b.left_is_shared &&
         a.adds == b.adds && a.left == b.left && a.right == b.right;
}

// A lane's part of one: rows g and g + 8, and of each eight columns two.
struct LanesProduct {
  GroupProduct what;
  float (*sum)[4];
  std::vector<uint16_t> left, right;  // as they were when it was issued
};

struct Sums {
  std::vector<float> value;
  unsigned products = 0;  // under way
};

struct GroupLane {
  bool fenced = false;
  std::deque<std::vector<LanesProduct>> groups = {{}};  // those under way; the last is open
  std::map<float (*)[4], Sums> sums;                    // of products under way
};

struct Warpgroup {
  Barrier barrier;
  std::vector<GroupProduct> products;
  unsigned issued[kGroupWarps] = {};  // of them, by each warp
};

struct Warpgroups {
  std::vector<GroupLane> lanes;
  std::vector<Warpgroup> groups;
};
inline Warpgroups warpgroups;

inline GroupLane& group_lane() { return warpgroups.lanes[block.current]; }

inline Warpgroup& own_warpgroup() {
  if (block.fibers.size() % kGroupLanes != 0) throw std::logic_error("only whole warpgroups are emulated");
  return warpgroups.groups[block.current / kGroupLanes];
}

inline void meet_warpgroup() { arrive(own_warpgroup().barrier, kGroupLanes, Operation::sync); }

inline void fence_products() { group_lane().fenced = true; }

inline void note_issue(const GroupProduct& product) {
  Warpgroup& group = own_warpgroup();
  unsigned& issued = group.issued[block.current / kLanes % kGroupWarps];
  if (issued == group.products.size()) group.products.push_back(product);
  if (!(group.products[issued] == product)) throw std::logic_error("warps of a warpgroup issue different products");
  ++issued;
}

// What a lane needs of both factors, as they are now; left elements in registers are given.
inline LanesProduct read_factors(const GroupProduct& what, const std::vector<uint16_t>& registers) {
  const unsigned row = block.current % kGroupLanes / kLanes * 16 + lane() / 4, column = lane() % 4 * 2;
  LanesProduct read{what, nullptr, registers, {}};
  const auto read_left = [&](unsigned from, unsigned apart, unsigned count) {
    for (unsigned i = 0; i < count * kDepth; ++i)
      read.left.push_back(read_async(Described(what.left).address(from + i / kDepth * apart, i % kDepth, false)));
  };
  if (what.left_is_shared) read_left(row, 8, 2);
  // Which warp's part of the tensor cores reads which rows is not documented: one lane minds all of them.
  if (what.left_is_shared && lane() == 0) read_left(0, 1, 16 * kGroupWarps);
  for (unsigned n = 0; n < what.columns / 4; ++n)
    for (unsigned k = 0; k < kDepth; ++k)
      read.right.push_back(
          read_async(Described(what.right).address(n / 2 * 8 + column + n % 2, k, what.transposed)));
  return read;
}

inline bool is_poison(float value) {
  unsigned char bytes[sizeof(value)];
  memcpy(bytes, &value, sizeof(value));
  return std::all_of(bytes, bytes + sizeof(value), [](unsigned char byte) { return byte == kPoison; });
}

inline void issue_product(float (*sum)[4], const uint32_t (&registers)[4], const GroupProduct& what) {
  struct Held {
    uint32_t registers[4];
  };
  const Brought<Held> held({{registers[0], registers[1], registers[2], registers[3]}}, Operation::group_product);
  if (lane() == 0) note_issue(what);
  GroupLane& own = group_lane();
  if (!own.fenced) throw std::logic_error("a product of a warpgroup without a fence");
  std::vector<uint16_t> left;
  for (unsigned i = 0; !what.left_is_shared && i < 2 * kDepth; ++i) {
    const unsigned k = i % kDepth, from = lane() / 4 * 4 + k % 8 / 2;
    left.push_back(static_cast<uint16_t>(held[from].registers[i / kDepth + k / 8 * 2] >> k % 2 * 16));
  }
  Sums& sums = own.sums[sum];
  const unsigned count = what.columns / 2;
  if (sums.products++ == 0) sums.value.assign(sum[0], sum[0] + count);
  memset(sum[0], kPoison, count * sizeof(float));
  own.groups.back().push_back(read_factors(what, left));
  own.groups.back().back().sum = sum;
}

inline void finish(GroupLane& own, const LanesProduct& issued) {
  const bool reads_left = issued.what.left_is_shared;
  const LanesProduct now = read_factors(issued.what, reads_left ? std::vector<uint16_t>() : issued.left);
  const bool unchanged = now.left == issued.left && now.right == issued.right;
  Sums& sums = own.sums[issued.sum];
  float* place = issued.sum[0];
  for (unsigned i = 0; i < sums.value.size(); ++i) {
    if (!issued.what.adds) sums.value[i] = 0.0f;
    if (!is_poison(place[i])) throw std::logic_error("a sum was touched while a product was under way");
    const unsigned half = i % 4 / 2, column = i / 4 * 2 + i % 2;
    for (unsigned k = 0; k < kDepth; ++k)
      sums.value[i] += load(BFloat16{now.left[half * kDepth + k]}) * load(BFloat16{now.right[column * kDepth + k]});
    if (!unchanged) sums.value[i] = NAN;
  }
  if (--sums.products > 0) return;
  std::copy(sums.value.begin(), sums.value.end(), place);
  own.sums.erase(issued.sum);
}

inline void commit_products() { group_lane().groups.emplace_back(); }

inline void wait_products(size_t pending) {
  GroupLane& own = group_lane();
  own.fenced = false;
  for (; own.groups.size() > pending + 1; own.groups.pop_front())
    for (const LanesProduct& product : own.groups.front()) finish(own, product);
}

inline void begin_warpgroups(size_t) {
  warpgroups = Warpgroups();
  warpgroups.lanes.resize(block.fibers.size());
  warpgroups.groups.resize(block.fibers.size() / kGroupLanes);
}

inline void end_warpgroups() {
  for (const GroupLane& lane : warpgroups.lanes)
    if (!lane.sums.empty()) throw std::logic_error("a thread ended while products were under way");
  for (const Warpgroup& group : warpgroups.groups)
    for (unsigned issued : group.issued)
      if (issued != group.products.size()) throw std::logic_error("a warp left out a product of its warpgroup");
}

inline const bool warpgroups_are_there =
    (parts.push_back({begin_warpgroups, [] { return false; }, end_warpgroups}), true);

}  // namespace ecgtwin::emulation
