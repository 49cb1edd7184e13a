// The ends of a step: latents into the residual stream, the residual stream into the predicted noise, the sampler.
#pragma once

#include "room.cuh"
#include "sampler_step.h"

namespace ecgtwin::cuda {

// x = rotary encoding of the embedded latent, by way of the panels: here nothing is unrolled, and registers are few.
template <class S>
__device__ __forceinline__ void embed(const Room<S>& room, const TrajectoryArgs& a, Sum<float, S::width>& x) {
  constexpr int half = S::width / 2, stride = Room<S>::residual_stride;
  float* rows = room.residual();
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < 16 * half; i += kWarp) {
    const int row = i / half, column = i % half, position = room.own_row() + row;
    float first = a.embed_bias[column], second = a.embed_bias[column + half];
    for (int channel = 0; channel < a.channels; ++channel) {
      const float latent = room.latent[channel * room.length + position];
      first += latent * a.embed_weight[channel * S::width + column];
      second += latent * a.embed_weight[channel * S::width + column + half];
    }
    const float cosine = a.cosine[position * half + column], sine = a.sine[position * half + column];
    rows[row * stride + column] = first * cosine - second * sine;
    rows[row * stride + column + half] = second * cosine + first * sine;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const OfColumns columns(rows + (place_of_lane().row + 8 * i) * stride);
#pragma unroll
    for (int n = 0; n < S::width / 8; ++n) {
      x[n][2 * i] = columns[n].first;
      x[n][2 * i + 1] = columns[n].second;
    }
  }
  // These rows lie across other warps' rows of the panels.
  __syncthreads();
}

// epsilon = the final projection of x.
template <class S>
__device__ __forceinline__ void project(Room<S>& room, const TrajectoryArgs& a, const Sum<float, S::width>& x) {
  const Place at = place_of_lane();
#pragma unroll 1
  for (int channel = 0; channel < a.channels; ++channel) {
    float sum[2] = {0.0f, 0.0f};
    const OfColumns weights(a.final_weight + channel * S::width);
#pragma unroll
    for (int n = 0; n < S::width / 8; ++n) {
      const Pair weight = weights[n];
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i / 2] += x[n][i] * (i % 2 ? weight.second : weight.first);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float total = row_sum(sum[i]) + a.final_bias[channel];
      if (at.column == 0) room.epsilon[channel * room.length + room.own_row() + at.row + 8 * i] = total;
    }
  }
}

// Calls `of_counter` with the number of each counter of a record's normals.
template <class S, typename OfCounter>
__device__ __forceinline__ void for_counters(const Room<S>& room, const TrajectoryArgs& a, OfCounter of_counter) {
  const int counters = static_cast<int>(a.channels) * room.length / static_cast<int>(kNormalsPerCounter);
  for (int i = static_cast<int>(threadIdx.x); i < counters; i += static_cast<int>(blockDim.x)) of_counter(i);
}

// The latents that a record has at the first step of this launch.
template <class S>
__device__ __forceinline__ void begin_record(Room<S>& room, const TrajectoryArgs& a, int record) {
  for_counters(room, a, [&](int counter) {
    const uint64_t key = a.first_index + static_cast<uint64_t>(record);
    Normal4 drawn{};
    if (a.draws) drawn = draw_normals(static_cast<uint32_t>(counter), kInitialStep, key, a.seed);
#pragma unroll
    for (int i = 0; i < kNormalsPerCounter; ++i) {
      const int element = counter * static_cast<int>(kNormalsPerCounter) + i;
      const int64_t place = static_cast<int64_t>(record) * a.channels * a.length + element;
      room.latent[element] = a.draws ? drawn.at[i] : a.latents[place];
      room.clean[element] = a.first_step == 0 ? 0.0f : a.clean[place];
    }
  });
}

// The sampler's step, by epsilon.
template <class S>
__device__ __forceinline__ void advance(Room<S>& room, const TrajectoryArgs& a, int record, int step) {
  const SamplerStep<float> k = read_step<float>(a.coefficients + step * kCoefficients);
  for_counters(room, a, [&](int counter) {
    const uint64_t key = a.first_index + static_cast<uint64_t>(record);
    Normal4 drawn{};
    if (!a.noise && k.k_noise != 0.0f)
      drawn = draw_normals(static_cast<uint32_t>(counter), a.first_step + static_cast<uint32_t>(step), key, a.seed);
#pragma unroll
    for (int i = 0; i < kNormalsPerCounter; ++i) {
      const int element = counter * static_cast<int>(kNormalsPerCounter) + i;
      const int64_t place = (step * a.records + record) * a.channels * a.length + element;
      const float noise = a.noise ? a.noise[place] : drawn.at[i];
      const float x = room.latent[element], epsilon = room.epsilon[element];
      const float clean = predicted_x0<float>(k, x, epsilon);
      room.latent[element] = next_x<float>(k, x, clean, room.clean[element], epsilon, noise);
      room.clean[element] = clean;
    }
  });
}

template <class S>
__device__ __forceinline__ void end_record(const Room<S>& room, const TrajectoryArgs& a, int record) {
  for_counters(room, a, [&](int counter) {
#pragma unroll
    for (int i = 0; i < kNormalsPerCounter; ++i) {
      const int element = counter * static_cast<int>(kNormalsPerCounter) + i;
      const int64_t place = static_cast<int64_t>(record) * a.channels * a.length + element;
      a.latents[place] = room.latent[element];
      a.clean[place] = room.clean[element];
    }
  });
}

}  // namespace ecgtwin::cuda
