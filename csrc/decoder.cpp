// cpu_decode: checks, memory and threads of the autoencoder's decoder on the CPU.
#include "decoder.h"

#include <ATen/ops/empty.h>

#include <vector>

#include "engine_binding.h"
#include "workers.h"

namespace ecgtwin {
namespace {

using at::Tensor;
using at::TensorList;

constexpr int64_t kNumbers = 7;  // that describe a layer

constexpr void (*kDecode[kCpuLevels])(const DecoderArgs&, int64_t) = ECGTWIN_ENGINE(decode);

// layers: kind, channels in and out, source, target, groups of the norm, whether to accumulate; for each layer.
std::vector<DecoderLayer> read_layers(const char* op, at::IntArrayRef layers, TensorReader& read,
                                      const ProductLayout& layout) {
  TORCH_CHECK(!layers.empty() && layers.size() % kNumbers == 0, op, ": layers must have ", kNumbers,
              " numbers a layer, but it has ", layers.size());
  std::vector<DecoderLayer> result(layers.size() / kNumbers);
  int64_t planes = kLatentPlanes;
  for (size_t i = 0; i < result.size(); ++i) {
    const at::IntArrayRef numbers = layers.slice(i * kNumbers, kNumbers);
    for (int64_t number : numbers)
      TORCH_CHECK(number >= 0 && number <= 1 << 16, op, ": layer ", i, " has the impossible number ", number);
    DecoderLayer& layer = result[i];
    layer.kind = static_cast<DecoderLayerKind>(numbers[0]);
    layer.in = numbers[1], layer.out = (numbers[2] + layout.rows - 1) / layout.rows * layout.rows;
    layer.source = numbers[3], layer.target = numbers[4], layer.groups = numbers[5];
    layer.accumulate = numbers[6] != 0, layer.planes = planes;
    const bool attends = layer.kind == DecoderLayerKind::attention;
    TORCH_CHECK(layer.kind <= DecoderLayerKind::attention && layer.source < kDecoderBuffers &&
                    layer.target < kDecoderBuffers && layer.in > 0 && layer.in % kDecoderChannels == 0 &&
                    layer.out > 0 && (!layer.groups || layer.in % layer.groups == 0) &&
                    (!attends || (layer.in == numbers[2] && layer.in % layout.rows == 0)),
                op, ": layer ", i, " cannot be ", numbers);
    const int64_t matrix = layer.points() * layer.out * layer.in / layout.pack;
    layer.weights = read.next<uint32_t>(matrix);
    layer.bias = read.next<float>(layer.out);
    if (attends) {
      layer.key = read.next<uint32_t>(matrix);
      layer.value = read.next<uint32_t>(matrix);
      layer.output = read.next<uint32_t>(matrix);
      layer.output_bias = read.next<float>(layer.out);
    }
    if (layer.groups) {
      layer.scale = read.next<float>(layer.in);
      layer.shift = read.next<float>(layer.in);
    }
    planes = layer.planes_out();
    TORCH_CHECK(planes <= 1 << 16, op, ": too many layers double the length");
  }
  TORCH_CHECK(read.done(), op, ": weights has more tensors than the layers take");
  return result;
}

DecoderSizes measure(const DecoderArgs& a, const std::vector<DecoderLayer>& layers, const ProductLayout& layout) {
  DecoderSizes most{};
  const auto grow = [](int64_t& size, int64_t needed) { size = std::max(size, needed); };
  most.products = kProducts * kBlockRows * layout.tile;
  grow(most.buffer, a.mixed * kLatentPlanes * a.lanes);
  for (const DecoderLayer& layer : layers) {
    const int64_t length = layer.planes * a.lanes, row = layer.in / layout.pack;
    const int64_t window = layer.kind == DecoderLayerKind::convolution ? kLatentPlanes : 1;
    grow(most.buffer, std::max(layer.in * length, layer.out * layer.planes_out() * a.lanes));
    grow(most.moments, 2 * layer.groups);
    grow(most.panels, length / window * layer.points() * row);
    grow(most.rows, 2 * (layer.planes + 2) * a.lanes);
    if (layer.kind != DecoderLayerKind::attention) continue;
    grow(most.attended, row * length);
    grow(most.queries, row * layout.tile);
    grow(most.scores, length * layout.tile);
  }
  return most;
}

Tensor decode(TensorList weights, at::IntArrayRef numbers, const Tensor& latents, int64_t leads, double eps,
              bool bfloat16, int64_t threads, Tensor status) {
  const char* op = "cpu_decode";
  layout_for(op, bfloat16);
  const ProductLayout layout = narrow_layout(cpu_level(), bfloat16);
  check_dim(op, "latents", latents, 3, "(batch, channels, length)");
  const int64_t length = latents.size(2);
  TORCH_CHECK(length > 0 && length % kDecoderLength == 0, op, ": the length of latents must be a multiple of ",
              kDecoderLength, ", but it is ", length);
  TORCH_CHECK(threads > 0, op, ": threads must be at least 1, but it is ", threads);
  TORCH_CHECK(weights.size() >= 2, op, ": weights must begin with the latent's convolution");
  DecoderArgs a{};
  const int64_t batch = latents.size(0);
  a.channels = latents.size(1), a.lanes = length / kLatentPlanes;
  a.mixed = weights[1].numel(), a.leads = leads, a.eps = static_cast<float>(eps);
  TensorReader read(op, "weights", weights);
  a.mix = read.next<float>(a.mixed * a.channels);
  a.mix_bias = read.next<float>(a.mixed);
  const std::vector<DecoderLayer> layers = read_layers(op, numbers, read, layout);
  a.layers = layers.data();
  a.count = static_cast<int64_t>(layers.size());
  const DecoderLayer& last = layers.back();
  TORCH_CHECK(leads > 0 && leads <= last.out, op, ": leads must be in 1..", last.out, ", but it is ", leads);
  a.latents = data_of<float>(op, "latents", latents, latents.numel());
  data_of<int64_t>(op, "status", status, 2);
  a.status = status.data_ptr<int64_t>();
  a.bfloat16 = bfloat16;
  Tensor signals = at::empty({batch, leads, last.planes_out() * a.lanes}, latents.options());
  if (batch == 0) return signals;
  a.signals = signals.data_ptr<float>();

  // Where rows are fewest, at the end, their tiles are what members share.
  const Shares shares = share_records(batch, threads, last.planes / kLatentPlanes * a.lanes / layout.tile);
  const DecoderSizes sizes = measure(a, layers, layout);
  const HiredCrew<DecoderTeam, DecoderScratch> hired(
      batch, shares, [&](DecoderTeam& team, Arena& arena) { team.carve(arena, sizes); },
      [&](DecoderScratch& own, Arena& arena) { own.carve(arena, sizes); });
  a.crew = hired.crew();
  const auto kernel = kDecode[static_cast<int>(cpu_level())];
  hired.run([&](int64_t thread) { kernel(a, thread); }, &a.status[1]);
  return signals;
}

}  // namespace

TORCH_LIBRARY_IMPL(ecgtwin_fast, CPU, m) { m.impl("cpu_decode", &decode); }

}  // namespace ecgtwin
