// CPU kernel of the autoencoder's decoder: a thread, or a team of them, takes one record through all layers.
#include "decoder.h"

#if defined(__AVX2__)

#include "cpu/attention.h"
#include "cpu/convolution.h"
#include "cpu/tile_norm.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

// One thread at work on `record`, as member `member` of a team.
struct Worker {
  const DecoderArgs& a;
  DecoderTeam& team;
  const DecoderScratch& own;
  int64_t record, member;

  Range share(int64_t units) const { return share_of(units, member, team.team.size); }
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The latent's own pointwise convolution, in float32, to buffer 0.
void start(const Worker& w) {
  const DecoderArgs& a = w.a;
  const int64_t length = kLatentPlanes * a.lanes;
  const float* latent = a.latents + w.record * a.channels * length;
  const Range rows = w.share(a.mixed);
  for (int64_t row = rows.begin; row < rows.end; ++row)
    for (int64_t position = 0; position < length; ++position) {
      float sum = a.mix_bias[row];
      for (int64_t c = 0; c < a.channels; ++c) sum += a.mix[row * a.channels + c] * latent[c * length + position];
      w.team.buffers[0][row * length + position % kLatentPlanes * a.lanes + position / kLatentPlanes] = sum;
    }
}

// The last layer's planes, in the order of positions.
void finish(const Worker& w) {
  const DecoderLayer& last = w.a.layers[w.a.count - 1];
  const Rows rows{last.planes_out(), w.a.lanes};
  const Range leads = w.share(w.a.leads);
  for (int64_t lead = leads.begin; lead < leads.end; ++lead) {
    const float* x = w.team.buffers[last.target] + lead * rows.size();
    float* out = w.a.signals + (w.record * w.a.leads + lead) * rows.size();
    for (int64_t lane = 0; lane < rows.lanes; ++lane)
      for (int64_t plane = 0; plane < rows.planes; ++plane) *out++ = x[plane * rows.lanes + lane];
  }
}

void group_moments(const Worker& w, const DecoderLayer& layer) {
  const int64_t size = layer.in / layer.groups * layer.planes * w.a.lanes;
  const Range groups = w.share(layer.groups);
  for (int64_t group = groups.begin; group < groups.end; ++group)
    find_moments(w.team.buffers[layer.source] + group * size, size, w.a.eps, w.team.moments + 2 * group);
}

template <class T, class Kind>
void pack_panels(const Worker& w, const DecoderLayer& layer) {
  const Rows rows{layer.planes, w.a.lanes};
  const Range couples = w.share(layer.in / 2);
  for (int64_t channel = 2 * couples.begin; channel < 2 * couples.end; channel += 2) {
    float* planes[2];
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t c = channel + i;
      const float* x = w.team.buffers[layer.source] + c * rows.size();
      planes[i] = w.own.rows + i * (rows.size() + 2 * rows.lanes) + rows.lanes;
      if (layer.groups)
        activate<T::exact>(x, rows.size(), w.team.moments + 2 * (c * layer.groups / layer.in), layer.scale[c],
                           layer.shift[c], planes[i]);
      else
        memcpy(planes[i], x, rows.size() * sizeof(float));
      add_neighbours(planes[i], rows);
    }
    pack_channels<T, Kind>(planes[0], planes[1], rows, channel, layer.in / T::pack, w.team.panels);
  }
}

// Blocks of rows times tiles, shared out by both.
template <class T, class Kind, bool accumulate>
void convolve(const Worker& w, const DecoderLayer& layer) {
  const int64_t pairs = layer.in / T::pack, lanes = w.a.lanes, stride = layer.planes_out() * lanes;
  const int64_t tiles = layer.planes / Kind::planes * lanes / T::tile;
  const int64_t blocks = (layer.out + kBlockRows - 1) / kBlockRows;
  const Range share = w.share(blocks * tiles);
  for (int64_t unit = share.begin, run; unit < share.end; unit += run) {
    const int64_t row = unit / tiles * kBlockRows, tile = unit % tiles;
    const int64_t count = least(layer.out - row, kBlockRows);
    run = least(least(share.end - unit, tiles - tile), kProducts / Kind::points);
    block_products<T, Kind>(layer.weights + row * Kind::points * pairs,
                            w.team.panels + tile * Kind::points * pairs * T::tile, count, pairs, run, w.own.products);
    for (int64_t i = 0; i < run; ++i) {
      const int64_t place = (tile + i) * T::tile;
      finish_tile<T, Kind, accumulate>(
          w.own.products + i * Kind::points * kBlockRows * T::tile, count, layer.bias + row,
          w.team.buffers[layer.target] + row * stride + place / lanes * Kind::outputs * lanes + place % lanes, stride,
          lanes);
    }
  }
}

template <class T, class Kind>
void convolution(const Worker& w, const DecoderLayer& layer) {
  if (layer.groups) {
    group_moments(w, layer);
    meet(w.team.team);
  }
  pack_panels<T, Kind>(w, layer);
  meet(w.team.team);
  if (layer.accumulate)
    convolve<T, Kind, true>(w, layer);
  else
    convolve<T, Kind, false>(w, layer);
}

// x += output(attention(x)) of one head; positions in whatever order.
template <class T>
void attention(const Worker& w, const DecoderLayer& layer) {
  const int64_t width = layer.in, pairs = width / T::pack, length = layer.planes * w.a.lanes;
  const Range tiles = w.share(length / T::tile);
  const float factor = kLog2E / __builtin_sqrtf(static_cast<float>(width));
  float* x = w.team.buffers[layer.source];
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    uint32_t* panel = w.team.panels + tile * pairs * T::tile;
    to_panel<T>(x + tile * T::tile, length, width, 1.0f, panel);
    linear_to_panel<T>(layer.key, panel, width, pairs, nullptr, 1.0f, w.team.keys + tile * T::tile, length);
    linear_to_elements<T>(layer.value, panel, width, pairs, w.team.values, length, tile * T::tile);
  }
  meet(w.team.team);
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    linear_to_panel<T>(layer.weights, w.team.panels + tile * pairs * T::tile, width, pairs, layer.bias, factor,
                       w.own.queries, T::tile);
    self_attention<T>(w.team.keys, w.team.values, length, 1, width, w.own.scores, w.own.queries);
    linear<T, true>(layer.output, w.own.queries, width, pairs, layer.output_bias, x + tile * T::tile, length);
  }
}

template <class T>
void decode_record(const Worker& w) {
  start(w);
  for (int64_t i = 0; i < w.a.count; ++i) {
    meet(w.team.team);
    const DecoderLayer& layer = w.a.layers[i];
    switch (layer.kind) {
      case DecoderLayerKind::pointwise: convolution<T, Pointwise>(w, layer); break;
      case DecoderLayerKind::convolution: convolution<T, Convolution>(w, layer); break;
      case DecoderLayerKind::upsampling: convolution<T, Upsampling>(w, layer); break;
      case DecoderLayerKind::attention: attention<T>(w, layer); break;
    }
  }
  meet(w.team.team);
  finish(w);
  if (w.member == 0) __atomic_fetch_add(&w.a.status[0], 1, __ATOMIC_RELAXED);
}

template <class T>
void work(const DecoderArgs& a, int64_t thread) {
  take_records(a.crew, thread, [&](int64_t record, int64_t member, DecoderTeam& team) {
    // A team could not agree on this without a meeting, and has but one record.
    if (team.team.size == 1 && __atomic_load_n(&a.status[1], __ATOMIC_RELAXED)) return false;
    decode_record<T>({a, team, a.crew.scratch[thread], record, member});
    if (thread == 0 && !a.crew.tick()) __atomic_store_n(&a.status[1], 1, __ATOMIC_RELAXED);
    return true;
  });
}

}  // namespace

void decode(const DecoderArgs& a, int64_t thread) {
  const FlushDenormals flush;
#if defined(__AVX512BF16__)
  if (a.bfloat16) return work<NarrowBfloat16>(a, thread);
#endif
  work<Float32>(a, thread);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT

#endif
