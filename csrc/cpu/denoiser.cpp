// CPU kernel of whole reverse diffusions: a thread, or a team of them, takes one record through all steps.
#include "denoiser.h"

#if defined(__AVX2__)

#include "cpu/noise.h"
#include "cpu/transformer.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

// Fills the table for `count` steps from `first`, at most a tile of them, each member its share: linear(SiLU(time + base)).
template <class T>
void modulate(const DenoiserArgs& a, DenoiserTeam& team, int64_t member, int64_t base, int64_t first, int64_t count) {
  const Transformer& net = a.net;
  const int64_t pairs = net.width / T::pack;
  const Range couples = share_of(net.width / 2, member, team.team.size);
  for (int64_t c = 2 * couples.begin; c < 2 * couples.end; c += 2) {
    alignas(64) float sums[2][T::tile] = {};
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t step = 0; step < count; ++step)
        sums[i][step] = a.time[(first + step) * net.width + c + i] + a.base[base * net.width + c + i];
    Block<T, 2> value;
    ECGTWIN_EACH(2) value[i][j] = silu<T::exact>(load_aligned(sums[i] + j * kLanes));
    store_panel<T, 2>(team.table.panel, T::tile, c, value);
  }
  meet(team.team);
  const Range strips = share_of(net.modulations() / T::rows, member, team.team.size);
  const int64_t start = strips.begin * T::rows, rows = strips.end * T::rows - start;
  product<T>(a.modulation + start * pairs, team.table.panel, rows, pairs,
             [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
               alignas(64) float values[T::rows][T::tile];
               row += start;
               ECGTWIN_EACH(T::rows)
               store_aligned(values[i] + j * kLanes, block[i][j] + broadcast(a.modulation_bias[row + i]));
               for (int64_t step = 0; step < count; ++step)
                 for (int64_t i = 0; i < T::rows; ++i)
                   team.table.rows[step * net.modulation_stride() + row + i] = values[i][step];
             });
}

// The tile's part of the noise of one record at one step, (channels, length).
template <class T>
void draw_tile(const DenoiserArgs& a, int64_t record, uint32_t step, int64_t channel, int64_t tile, float* out) {
  const int64_t first = channel * a.net.length + tile * T::tile;
  draw_normals<T::tile / kNormalsPerCounter>(a.seed, a.first_index + static_cast<uint64_t>(record / a.group), step,
                                             static_cast<uint32_t>(first / kNormalsPerCounter), out);
}

// epsilon = x out_weight + out_bias, and the sampler's step on the state.
template <class T>
ECGTWIN_NOINLINE void finish_step(const DenoiserArgs& a, const Worker<T>& w, const DenoiserScratch& own, int64_t record,
                                  int64_t step, int64_t tile) {
  const Transformer& net = a.net;
  const SamplerStep<float> k = read_step<float>(a.coefficients + step * kCoefficients);
  const float* x = w.x(tile);
  for (int64_t channel = 0; channel < net.channels; ++channel) {
    Vector sum[T::vectors];
    for (int j = 0; j < T::vectors; ++j) sum[j] = broadcast(a.out_bias[channel]);
    for (int64_t c = 0; c < net.width; ++c) {
      const Vector weight = broadcast(a.out_weight[channel * net.width + c]);
      ECGTWIN_UNROLL
      for (int j = 0; j < T::vectors; ++j) sum[j] = multiply_add(load_aligned(x + c * T::tile + j * kLanes), weight, sum[j]);
    }
    alignas(64) float epsilon[T::tile], noise[T::tile] = {};
    for (int j = 0; j < T::vectors; ++j) store_aligned(epsilon + j * kLanes, sum[j]);

    const int64_t offset = channel * net.length + tile * T::tile, size = net.channels * net.length;
    if (k.k_noise != 0.0f && !a.noise) draw_tile<T>(a, record, static_cast<uint32_t>(step), channel, tile, noise);
    const float* z = a.noise ? a.noise + (step * a.crew.batch * a.group + record) * size + offset : noise;
    float *state = own.latent + w.member * size + offset, *x0 = own.x0 + w.member * size + offset;
#pragma omp simd
    for (int64_t i = 0; i < T::tile; ++i) {
      const float predicted = predicted_x0<float>(k, state[i], epsilon[i]);
      state[i] = next_x<float>(k, state[i], predicted, x0[i], epsilon[i], k.k_noise != 0.0f ? z[i] : 0.0f);
      x0[i] = predicted;
    }
  }
}

template <class T>
void start(const DenoiserArgs& a, const Worker<T>& w, const DenoiserScratch& own, int64_t record) {
  const Transformer& net = a.net;
  const int64_t size = net.channels * net.length;
  for (int64_t channel = 0; channel < net.channels; ++channel)
    for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile) {
      const int64_t offset = channel * net.length + tile * T::tile;
      float *state = own.latent + w.member * size + offset, *x0 = own.x0 + w.member * size + offset;
      if (a.x_init)
        memcpy(state, a.x_init + record * size + offset, T::tile * sizeof(float));
      else
        draw_tile<T>(a, record, kInitialStep, channel, tile, state);
      memset(x0, 0, T::tile * sizeof(float));
    }
}

// What record `index` of the group that begins at `first` has to do with the first one at a step.
Edit edit_at(const DenoiserArgs& a, int64_t first, int64_t index, int64_t step) {
  if (a.group == 1 || step < a.edit_step) return {};
  if (index == 0) return {Part::source, 0, 0, false, 0, false};
  const int64_t theirs = a.token_counts[first], ours = a.token_counts[first + index];
  return {Part::edit, a.conditions[a.condition_of[first]].tokens, theirs < ours ? theirs : ours, ours < theirs,
          a.edit_scales[first + index], ours > theirs};
}

// Thread `thread`, member `member` of a team, takes its tiles of a group of records through all steps. False: ended by
// a.status[1]. T is the format of tiles of positions, Steps that of tiles of steps.
template <class T, class Steps>
bool trajectory(const DenoiserArgs& a, int64_t thread, int64_t group, int64_t member, DenoiserTeam& team) {
  const DenoiserScratch& own = a.crew.scratch[thread];
  const Transformer& net = a.net;
  const int64_t first = group * a.group, base = a.base_of[first], size = net.channels * net.length;
  Worker<T> w{net, own, team, share_of(net.length / T::tile, member, team.team.size), 0};
#define ECGTWIN_MEMBERS for (w.member = 0; w.member < a.group; ++w.member)
  ECGTWIN_MEMBERS start<T>(a, w, own, first + w.member);
  for (int64_t step = 0; step < a.steps; ++step) {
    const int64_t chunk = step / Steps::tile;
    if (step % Steps::tile == 0 && (team.table.base != base || team.table.chunk != chunk)) {
      // The others may still read the rows of the chunk before, and this comparison the table's name.
      meet(team.team);
      const int64_t count = a.steps - step < Steps::tile ? a.steps - step : Steps::tile;
      modulate<Steps>(a, team, member, base, step, count);
      meet(team.team);
      if (member == 0) team.table.base = base, team.table.chunk = chunk;
    }
    if (member == 0) team.stop[step & 1] = __atomic_load_n(&a.status[1], __ATOMIC_RELAXED);
    ECGTWIN_MEMBERS
    for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile) embed<T>(w, own.latent + w.member * size, tile);
    const float* modulation = team.table.rows + step % Steps::tile * net.modulation_stride();
    for (int64_t block = 0; block < net.depth; ++block)
      ECGTWIN_MEMBERS {
        w.edit = edit_at(a, first, w.member, step);
        transformer_block<T, DenoiserBlock>(w, block, modulation + block * 6 * net.width,
                                            a.conditions[a.condition_of[first + w.member]]);
      }
    ECGTWIN_MEMBERS
    for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile) finish_step<T>(a, w, own, first + w.member, step, tile);
    // The members of the team have met since the leader wrote this.
    if (team.stop[step & 1]) return false;
    __atomic_fetch_add(&a.status[0], a.group * (w.tiles.end - w.tiles.begin), __ATOMIC_RELAXED);
    if (thread == 0 && !a.crew.tick()) __atomic_store_n(&a.status[1], 1, __ATOMIC_RELAXED);
  }
  for (int64_t row = 0; row < a.group * net.channels; ++row)
    for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile) {
      const int64_t offset = row * net.length + tile * T::tile;
      memcpy(a.latents + first * size + offset, own.latent + offset, T::tile * sizeof(float));
    }
#undef ECGTWIN_MEMBERS
  return true;
}

template <class T, class Steps>
void work(const DenoiserArgs& a, int64_t thread) {
  take_records(a.crew, thread, [&](int64_t group, int64_t member, DenoiserTeam& team) {
    return trajectory<T, Steps>(a, thread, group, member, team);
  });
}

}  // namespace

void denoise(const DenoiserArgs& a, int64_t thread) {
  const FlushDenormals flush;
#if defined(__AVX512BF16__)
  if (a.bfloat16) return work<Bfloat16, NarrowBfloat16>(a, thread);
#endif
  work<Float32, Float32>(a, thread);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
