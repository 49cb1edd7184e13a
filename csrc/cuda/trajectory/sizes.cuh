// What of a denoiser's sizes a kernel is compiled for, and how it cuts its work.
#pragma once

#include "tile.cuh"

namespace ecgtwin::cuda {

template <int channels, int of_head>
struct Sizes {
  static constexpr int width = channels, head = of_head, heads = width / head;
  static constexpr int strip = 2 * head;          // hidden units that exist at a time
  static constexpr int most_threads = 256;        // a warp has 16 positions
  static constexpr int stride = kStride<BFloat16, width>, head_stride = kStride<BFloat16, head>;
  // The smallest part of the weights that is used at once has width * head of them.
  static constexpr int unit_tiles = width * head / 256;
  static constexpr int stage_tiles = unit_tiles < 16 ? unit_tiles : 16;
  static constexpr int stages = 3;                // of the ring
  static_assert(width % strip == 0 && head % 16 == 0 && unit_tiles % stage_tiles == 0);

  // Stages of one step's weights.
  ECGTWIN_INLINE int64_t stages_of_step(int64_t depth, int64_t units) {
    return depth * (6 * heads + 2 * (units / head)) * (unit_tiles / stage_tiles);
  }
};

}  // namespace ecgtwin::cuda
