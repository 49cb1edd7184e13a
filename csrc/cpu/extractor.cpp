// CPU kernel of the Individual Base Extractor: a thread, or a team of them, takes one record through all layers.
#include "extractor.h"

#if defined(__AVX2__)

#include "cpu/transformer.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

template <class T>
void sum_positions(const Worker<T>& w, int64_t tile, float* sums) {
  for (int64_t c = 0; c < w.net.width; ++c) {
    Vector sum = zero();
    for (int64_t j = 0; j < T::tile; j += kLanes) sum += load_aligned(w.x(tile) + c * T::tile + j);
    sums[tile * w.net.width + c] = sum_of_lanes(sum);
  }
}

template <class T>
void extract_record(const ExtractorArgs& a, int64_t index, int64_t member, ExtractorTeam& team,
                    const TransformerScratch& own) {
  const Transformer& net = a.net;
  const TransformerCondition& condition = a.conditions[a.condition_of[index]];
  Worker<T> w{net, own, team, share_of(net.length / T::tile, member, team.team.size), 0};
  for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile)
    embed<T>(w, a.latents + index * net.channels * net.length, tile);
  for (int64_t layer = 0; layer < net.depth; ++layer)
    transformer_block<T, ExtractorBlock>(w, layer, a.modulation + layer * 6 * net.width, condition);
  for (int64_t tile = w.tiles.begin; tile < w.tiles.end; ++tile) sum_positions<T>(w, tile, team.sums);
  meet(team.team);
  if (member != 0) return;
  for (int64_t c = 0; c < net.width; ++c) {
    float sum = 0;
    for (int64_t tile = 0; tile < net.length / T::tile; ++tile) sum += team.sums[tile * net.width + c];
    a.base_vectors[index * net.width + c] = sum / static_cast<float>(net.length);
  }
}

template <class T>
void work(const ExtractorArgs& a, int64_t thread) {
  take_records(a.crew, thread, [&](int64_t index, int64_t member, ExtractorTeam& team) {
    extract_record<T>(a, index, member, team, a.crew.scratch[thread]);
    return true;
  });
}

}  // namespace

void extract(const ExtractorArgs& a, int64_t thread) {
  const FlushDenormals flush;
#if defined(__AVX512BF16__)
  if (a.bfloat16) return work<Bfloat16>(a, thread);
#endif
  work<Float32>(a, thread);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
