// What of a denoiser's sizes a kernel is compiled for, how it multiplies, and how it cuts its work.
#pragma once

#include "tile.cuh"

namespace ecgtwin::cuda {

// How: Warps or Warpgroups.
template <int channels, int of_head, class How>
struct Sizes {
  using Multiplier = How;
  static constexpr int width = channels, head = of_head, heads = width / head;
  static constexpr int strip = 2 * head;          // hidden units that exist at a time
  static constexpr int most_threads = 256;        // a warp has 16 positions
  // The smallest part of the weights that is used at once has width * head of them.
  static constexpr int unit_tiles = width * head / 256;
  static constexpr int stage_tiles = unit_tiles < 16 ? unit_tiles : 16;  // of 16 x 16 elements
  static constexpr int stage_bytes = stage_tiles * 512;
  // Columns of an output matrix that follow one another: `strip` rows of them fill a stage.
  static constexpr int chunk = 256 * stage_tiles / strip;
  static_assert(width % strip == 0 && head % 16 == 0 && unit_tiles % stage_tiles == 0);
  static_assert(chunk % 16 == 0 && width % chunk == 0);

  // Stages of one step's weights.
  ECGTWIN_INLINE int64_t stages_of_step(int64_t depth, int64_t units) {
    return depth * (6 * heads + 2 * (units / head)) * (unit_tiles / stage_tiles);
  }
};

}  // namespace ecgtwin::cuda
