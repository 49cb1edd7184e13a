// Products of a warpgroup and bulk copies, right ones and some that hardware would get wrong only now and then.
#include "trajectory/products.cuh"

using namespace ecgtwin;
using namespace ecgtwin::cuda;

namespace {

constexpr int kRows = 64, kSide = 32;

enum class Fault {
  none, no_proxy_fence, no_barrier, no_fence, no_wait, sum_touched, factor_changed, row_changed, warp_left_out,
  other_factor, never_finished, swizzled, copy_not_awaited, copy_not_expected, barrier_unset
};

struct Shared {
  alignas(128) BFloat16 left[kRows * kSide];
  alignas(128) BFloat16 right[kSide * kSide];
  alignas(16) float copied[kSide];
  SharedBarrier barrier;
};

// Rows of numbers as a panel.
__device__ void fill(Panel<kSide> panel, int rows, const float* numbers) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * kSide / 2; i += static_cast<int>(blockDim.x)) {
    const int row = 2 * i / kSide, column = 2 * i % kSide;
    BFloat16* place = panel.from_row(row).from_column(column).data + row % 8 * 8 + column % 8;
    store_shared(place, packed(numbers[2 * i], numbers[2 * i + 1]));
  }
}

__device__ void write(const Sum<float, kSide>& sum, float* rows) {
  const int first = static_cast<int>(threadIdx.x) / kWarp * 16 + place_of_lane().row;
  for (int n = 0; n < kSide / 8; ++n)
    for (int i = 0; i < 4; ++i)
      rows[(first + i / 2 * 8) * kSide + 8 * n + place_of_lane().column + i % 2] = sum[n][i];
}

// numbers: left (64 x 32) and right (32 x 32), then left times the transpose of right by either kind of left factor,
// left times right, and 32 numbers of `right` by a bulk copy.
template <Fault fault>
__global__ void multiply(float* numbers) {
  Shared& shared = shared_memory<Shared>();
  const Panel<kSide> left{shared.left}, right{shared.right};
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  float* out = numbers + (kRows + kSide) * kSide;
  if (threadIdx.x == 0 && fault != Fault::barrier_unset) init_barrier(&shared.barrier, 1);
  fill(left, kRows, numbers);
  fill(right, kSide, numbers + kRows * kSide);
  if (fault != Fault::no_proxy_fence) fence_proxy();
  if (fault != Fault::no_barrier) __syncthreads();

  Sum<float, kSide> sum;
  const int lower = fault == Fault::other_factor && warp == 3 ? 16 : 0;
  if (fault == Fault::no_fence)
    begin_product<kSide, false>(sum, describe(left.data, 128, 512), describe(right.data, 128, 512), false);
  if (fault == Fault::swizzled) {
    fence_products();
    begin_product<kSide, false>(sum, 1ull << 62, describe(right.data, 128, 512), false);
  }
  if (fault != Fault::warp_left_out || warp != 1)
    Warpgroups::multiply_add<kSide, kSide>(sum, left.by_rows(), right.by_rows().at(lower, 0), true);
  if (fault == Fault::sum_touched) sum[0][0] = 0;
  __syncthreads();
  if (fault == Fault::factor_changed && threadIdx.x == 5) shared.right[7].bits ^= 1;
  if (fault == Fault::row_changed && threadIdx.x == 5) shared.left[kRows * kSide - 1].bits ^= 1;
  if (fault == Fault::never_finished) return;
  if (fault != Fault::no_wait) Warpgroups::finish<kSide>(sum);
  write(sum, out);
  if (fault == Fault::no_wait) Warpgroups::finish<kSide>(sum);

  Operand<kSide> operand;
  for (int k = 0; k < kSide / 16; ++k)
    Warps::load_left(operand[k], left.from_row(16 * warp).from_column(16 * k).by_rows());
  Warpgroups::multiply_add<kSide, kSide>(sum, operand, right.by_rows(), true);
  // Two under way at once, of one sum and of another.
  Sum<float, kSide> other;
  Warpgroups::multiply_add<16, kSide>(other, left.by_rows(), right.by_columns(), true);
  Warpgroups::multiply_add<16, kSide>(other, left.from_column(16).by_rows(), right.from_row(16).by_columns(), false);
  Warpgroups::finish<kSide>(other);
  write(sum, out + kRows * kSide);
  write(other, out + 2 * kRows * kSide);

  const int bytes = sizeof(shared.copied);
  if (threadIdx.x == 0 && fault != Fault::copy_not_expected)
    bulk_copy(shared.copied, numbers + kRows * kSide, bytes, &shared.barrier);
  __syncwarp();
  if (fault != Fault::copy_not_awaited) wait_phase(&shared.barrier, 0);
  if (threadIdx.x < kSide) out[3 * kRows * kSide + threadIdx.x] = shared.copied[threadIdx.x];
  if (fault == Fault::copy_not_awaited) wait_phase(&shared.barrier, 0);
}

template <int... faults>
void run(int64_t kind, float* numbers, std::integer_sequence<int, faults...>) {
  void (*const kernels[])(float*) = {multiply<static_cast<Fault>(faults)>...};
  launch(kernels[kind], 1, 128, sizeof(Shared), nullptr, numbers);
}

}  // namespace

void warpgroup_probe(int64_t kind, float* numbers) {
  run(kind, numbers, std::make_integer_sequence<int, static_cast<int>(Fault::barrier_unset) + 1>());
}
