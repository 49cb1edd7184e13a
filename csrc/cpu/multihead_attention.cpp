// CPU kernels of multihead_attention: one head of one record at a time, everything of it in the caches.
// Queries lie in SIMD lanes, as in the engines; the scores of a tile of queries are computed again for the gradient.
#include "multihead_attention.h"

#include <math.h>
#include <stdlib.h>

#include "cpu/head_operands.h"

namespace ecgtwin::ECGTWIN_VARIANT {
namespace {

// ---- any element type, any instruction set: the definition, loop by loop; sums over keys in double

template <typename T>
struct Scalar {
  using C = Compute<T>;
  const AttentionArgs& a;
  int64_t record, head;

  C at(const HeadRows& rows, int64_t row, int64_t channel) const { return load(*place(rows, row, channel)); }
  T* place(const HeadRows& rows, int64_t row, int64_t channel) const {
    return static_cast<T*>(rows.data) + record * rows.batch_stride + row * rows.row_stride + head * a.head_size + channel;
  }

  // Attention weights of one query.
  void weights(int64_t query, C* out) const {
    const C factor = C(1) / sqrt(C(a.head_size));
    C largest = C(kMasked);
    double sum = 0;
    for (int64_t key = 0; key < a.keys; ++key) {
      C score = 0;
      for (int64_t c = 0; c < a.head_size; ++c) score += at(a.query, query, c) * at(a.key, key, c);
      out[key] = score * factor;
      if (a.bias) {
        const float bias = a.bias[record * a.keys + key];
        out[key] += C(bias > kMasked ? bias : kMasked);
      }
      if (out[key] > largest) largest = out[key];
    }
    for (int64_t key = 0; key < a.keys; ++key) sum += out[key] = exp(out[key] - largest);
    for (int64_t key = 0; key < a.keys; ++key) out[key] = static_cast<C>(out[key] / sum);
  }

  void forward(C* room) const {
    for (int64_t query = 0; query < a.queries; ++query) {
      weights(query, room);
      for (int64_t c = 0; c < a.head_size; ++c) {
        double sum = 0;
        for (int64_t key = 0; key < a.keys; ++key) sum += room[key] * at(a.value, key, c);
        store(place(a.out, query, c), static_cast<C>(sum));
      }
    }
  }

  void backward(const AttentionGradArgs& g, C* room) const {
    const C factor = C(1) / sqrt(C(a.head_size));
    C *weight = room, *grad_score = weight + a.keys;
    C *grad_key = grad_score + a.keys, *grad_value = grad_key + a.keys * a.head_size;
    for (int64_t i = 0; i < 2 * a.keys * a.head_size; ++i) grad_key[i] = 0;
    for (int64_t query = 0; query < a.queries; ++query) {
      weights(query, weight);
      double mean = 0;
      for (int64_t key = 0; key < a.keys; ++key) {
        C sum = 0;
        for (int64_t c = 0; c < a.head_size; ++c) sum += at(g.grad, query, c) * at(a.value, key, c);
        grad_score[key] = sum;
        mean += weight[key] * sum;
      }
      for (int64_t key = 0; key < a.keys; ++key) grad_score[key] = static_cast<C>(weight[key] * (grad_score[key] - mean) * factor);
      for (int64_t c = 0; c < a.head_size; ++c) {
        const C from = at(a.query, query, c), incoming = at(g.grad, query, c);
        double sum = 0;
        for (int64_t key = 0; key < a.keys; ++key) {
          sum += grad_score[key] * at(a.key, key, c);
          grad_key[key * a.head_size + c] += grad_score[key] * from;
          grad_value[key * a.head_size + c] += weight[key] * incoming;
        }
        store(place(g.grad_query, query, c), static_cast<C>(sum));
      }
    }
    for (int64_t key = 0; key < a.keys; ++key)
      for (int64_t c = 0; c < a.head_size; ++c) {
        store(place(g.grad_key, key, c), grad_key[key * a.head_size + c]);
        store(place(g.grad_value, key, c), grad_value[key * a.head_size + c]);
      }
  }
};

template <typename T>
void scalar_tasks(const AttentionArgs& a, const AttentionGradArgs* gradient, int64_t begin, int64_t end) {
  using C = Compute<T>;
  C* room = static_cast<C*>(malloc(sizeof(C) * a.keys * (2 + 2 * a.head_size)));
  for (int64_t task = begin; task < end; ++task) {
    const Scalar<T> one{a, task / a.heads, task % a.heads};
    if (gradient)
      one.backward(*gradient, room);
    else
      one.forward(room);
  }
  free(room);
}

#if defined(__AVX2__)

// ---- vectors: element type S in memory, product format T; channel products have N's tile

// The operands of one head, padded with zeros, and room for a tile of queries.
template <class T, class N>
struct Room {
  int64_t keys, channels;                             // padded
  uint32_t *key_rows, *value_rows;                    // [keys][channels / pack]
  uint32_t *key_pairs, *value_pairs;                  // [keys / pack][channels]
  uint32_t *query_rows, *grad_rows;                   // [tile][channels / pack]
  uint32_t *query_panel, *grad_panel;                 // [channels / pack][tile]
  uint32_t *query_pairs, *grad_pairs;                 // [channels / N::tile][tile / pack][N::tile]
  float *bias, *weights, *grad_weights;               // [keys]; [keys][tile]
  uint32_t *weight_rows, *grad_score_rows, *grad_score_panel;  // elements [keys][tile]; pairs [keys / pack][tile]
  float *grad_key, *grad_value;                       // [keys][channels]
  uint32_t *result, *result_rows;                     // [channels / pack][tile], [tile][channels / pack]

  static Room carve(Arena& arena, const AttentionArgs& a, bool backward) {
    Room r{};
    r.keys = (a.keys + 7) / 8 * 8;
    const int64_t unit = backward ? N::tile : T::rows > 4 ? T::rows : 4;  // strips of rows; lanes of channels
    r.channels = (a.head_size + unit - 1) / unit * unit;
    const int64_t pairs = r.channels / T::pack, key_words = r.keys * pairs, tile_words = T::tile * pairs;
    r.key_rows = arena.take<uint32_t>(key_words);
    r.value_rows = arena.take<uint32_t>(key_words);
    r.value_pairs = arena.take<uint32_t>(key_words);
    r.query_rows = arena.take<uint32_t>(tile_words);
    r.query_panel = arena.take<uint32_t>(tile_words);
    r.bias = arena.take<float>(r.keys);
    r.weights = arena.take<float>(r.keys * T::tile);
    r.result = arena.take<uint32_t>(tile_words);
    r.result_rows = arena.take<uint32_t>(tile_words);
    if (!backward) return r;
    r.key_pairs = arena.take<uint32_t>(key_words);
    r.grad_rows = arena.take<uint32_t>(tile_words);
    r.grad_panel = arena.take<uint32_t>(tile_words);
    r.query_pairs = arena.take<uint32_t>(tile_words);
    r.grad_pairs = arena.take<uint32_t>(tile_words);
    r.grad_weights = arena.take<float>(r.keys * T::tile);
    r.weight_rows = arena.take<uint32_t>(r.keys * T::tile / T::pack);
    r.grad_score_rows = arena.take<uint32_t>(r.keys * T::tile / T::pack);
    r.grad_score_panel = arena.take<uint32_t>(r.keys * T::tile / T::pack);
    r.grad_key = arena.take<float>(r.keys * r.channels);
    r.grad_value = arena.take<float>(r.keys * r.channels);
    return r;
  }
};

// Row i of the weights at rows + i * stride dwords, times a panel.
template <class T, class Epilogue>
ECGTWIN_INLINE void row_product(const uint32_t* rows, int64_t stride, int64_t count, const uint32_t* panel,
                                int64_t pairs, const Epilogue& epilogue) {
  for (int64_t row = 0; row < count; row += T::rows)
    multiply<T, 0>(rows + row * stride, stride, 1, panel, pairs,
                   [&](Block<T, T::rows>& block) __attribute__((always_inline)) { epilogue(row, block); });
}

// Scores in units of log2(e), padded keys masked; their largest by query goes to `largest`.
template <class T>
ECGTWIN_NOINLINE void scores(const uint32_t* keys, int64_t count, int64_t pairs, const uint32_t* queries, float factor,
                             const float* bias, float* out, Vector* largest) {
  Vector top[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) top[j] = broadcast(-3e38f);
  row_product<T>(keys, pairs, count, queries, pairs,
                 [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
                   ECGTWIN_EACH(T::rows) {
                     const Vector score = multiply_add(block[i][j], broadcast(factor), broadcast(bias[row + i]));
                     top[j] = maximum(top[j], score);
                     store_aligned(out + (row + i) * T::tile + j * kLanes, score);
                   }
                 });
  for (int j = 0; j < T::vectors; ++j) largest[j] = top[j];
}

// Packed pairs of keys [pair][channels] times the panel of a tile, times `factor`, as rows of channels.
template <class T>
ECGTWIN_NOINLINE void to_query_rows(const uint32_t* pairs_of_keys, int64_t channels, const uint32_t* panel, int64_t pairs,
                                    const Vector* factor, uint32_t* result, uint32_t* rows) {
  constexpr int64_t at_once = kKeysAtOnce / T::pack;
  Vector by[T::vectors];
  ECGTWIN_UNROLL
  for (int j = 0; j < T::vectors; ++j) by[j] = factor[j];
  for (int64_t channel = 0; channel < channels; channel += T::rows) {
    Block<T, T::rows> sum;
    ECGTWIN_EACH(T::rows) sum[i][j] = zero();
    for (int64_t first = 0; first < pairs; first += at_once)
      multiply<T, 0>(pairs_of_keys + first * channels + channel, 1, channels, panel + first * T::tile,
                     pairs - first < at_once ? pairs - first : at_once,
                     [&](Block<T, T::rows>& block) __attribute__((always_inline)) {
                       ECGTWIN_EACH(T::rows) sum[i][j] += block[i][j];
                     });
    ECGTWIN_EACH(T::rows) sum[i][j] = sum[i][j] * by[j];
    store_panel<T, T::rows>(result, T::tile, channel, sum);
  }
  transpose(result, T::tile, channels / T::pack, T::tile, rows, channels / T::pack);
}

// sums [keys][channels] += rows of elements [keys][tile] times pairs of queries, N::tile channels at a time.
template <class T, class N>
ECGTWIN_NOINLINE void add_to_keys(const uint32_t* rows, int64_t keys, const uint32_t* pairs_of_queries, int64_t channels,
                                  float* sums) {
  constexpr int64_t pairs = T::tile / T::pack;
  for (int64_t first = 0; first < channels; first += N::tile, pairs_of_queries += pairs * N::tile)
    for (int64_t row = 0; row < keys; row += N::rows)
      multiply<N, 0>(rows + row * pairs, pairs, 1, pairs_of_queries, pairs,
                     [&](Block<N, N::rows>& block) __attribute__((always_inline)) {
                       ECGTWIN_UNROLL
                       for (int i = 0; i < N::rows; ++i)
                         ECGTWIN_UNROLL
                         for (int j = 0; j < N::vectors; ++j) {
                           float* place = sums + (row + i) * channels + first + j * kLanes;
                           store_aligned(place, load_aligned(place) + block[i][j]);
                         }
                     });
}

template <typename S, class T, class N>
struct Head {
  const AttentionArgs& a;
  Room<T, N>& r;
  int64_t record, head;

  int64_t pairs() const { return r.channels / T::pack; }
  int64_t key_pairs() const { return r.keys / T::pack; }
  S* place(const HeadRows& rows, int64_t row) const {
    return static_cast<S*>(rows.data) + record * rows.batch_stride + row * rows.row_stride + head * a.head_size;
  }
  float* statistics(int64_t query) const {
    return static_cast<float*>(a.statistics) + (record * a.heads + head) * 2 * a.queries + query;
  }
  // Rows first .. first + count, of which those beyond the matrix and channels beyond the head are zero.
  void read(const HeadRows& from, int64_t first, int64_t rows, int64_t count, uint32_t* to) const {
    read_rows<S, T::pack>(place(from, first), from.row_stride, rows - first < count ? rows - first : count, count,
                          a.head_size, r.channels, to);
  }
  void write(const HeadRows& to, int64_t first, int64_t rows, const uint32_t* from) const {
    const int64_t count = rows - first < T::tile ? rows - first : T::tile;
    write_rows<S, T::pack>(from, r.channels, place(to, first), to.row_stride, count, a.head_size);
  }

  void read_keys() const {
    read(a.key, 0, a.keys, r.keys, r.key_rows);
    read(a.value, 0, a.keys, r.keys, r.value_rows);
    for (int64_t key = 0; key < r.keys; ++key)
      r.bias[key] = key < a.keys ? key_bias<float>(a.bias ? a.bias + record * a.keys : nullptr, key) : kMasked;
  }
  void read_queries(int64_t first, const HeadRows& from, uint32_t* rows, uint32_t* panel) const {
    read(from, first, a.queries, T::tile, rows);
    transpose(rows, pairs(), T::tile, pairs(), panel, T::tile);
  }
  void score(Vector* largest) const {
    scores<T>(r.key_rows, r.keys, pairs(), r.query_panel, kLog2E / sqrtf(static_cast<float>(a.head_size)), r.bias,
              r.weights, largest);
  }

  void forward() const {
    read_keys();
    pair_rows<T::pack>(r.value_rows, r.keys, r.channels, r.value_pairs);
    for (int64_t first = 0; first < a.queries; first += T::tile) {
      Vector largest[T::vectors], inverse[T::vectors];
      read_queries(first, a.query, r.query_rows, r.query_panel);
      score(largest);
      exponentials<T>(r.weights, r.keys, largest, inverse);
      to_query_rows<T>(r.value_pairs, r.channels, reinterpret_cast<const uint32_t*>(r.weights), key_pairs(), inverse,
                       r.result, r.result_rows);
      write(a.out, first, a.queries, r.result_rows);
      copy_lanes(largest, statistics(first), a.queries - first);
      copy_lanes(inverse, statistics(first) + a.queries, a.queries - first);
    }
  }

  static void copy_lanes(const Vector* from, float* to, int64_t count) {
    alignas(64) float lanes[T::tile];
    for (int64_t j = 0; j < T::vectors; ++j) store_aligned(lanes + j * kLanes, from[j]);
    for (int64_t i = 0; i < count && i < T::tile; ++i) to[i] = lanes[i];
  }
  static void copy_lanes(const float* from, int64_t count, Vector* to) {
    alignas(64) float lanes[T::tile];
    for (int64_t i = 0; i < T::tile; ++i) lanes[i] = i < count ? from[i] : 0.0f;
    for (int64_t j = 0; j < T::vectors; ++j) to[j] = load_aligned(lanes + j * kLanes);
  }

  // The weights of a tile of queries; those of rows beyond the last query do no harm, since their gradient is zero.
  __attribute__((noinline)) void normalise(int64_t first) const {
    Vector largest[T::vectors], inverse[T::vectors];
    copy_lanes(statistics(first), a.queries - first, largest);
    copy_lanes(statistics(first) + a.queries, a.queries - first, inverse);
    for (int64_t key = 0; key < r.keys; key += T::pack) {
      Block<T, T::pack> weight;
      ECGTWIN_EACH(T::pack) {
        float* place = r.weights + (key + i) * T::tile + j * kLanes;
        weight[i][j] = exp2<T::exact>(load_aligned(place) - largest[j]) * inverse[j];
        store_aligned(place, weight[i][j]);
      }
      store_elements<T, T::pack>(r.weight_rows, T::tile, key, 0, weight);
    }
  }

  // Gradient of the scores from that of the weights, for both products that need it.
  __attribute__((noinline)) void grad_scores(const Vector* mean) const {
    const Vector factor = broadcast(1.0f / sqrtf(static_cast<float>(a.head_size)));
    for (int64_t key = 0; key < r.keys; key += T::pack) {
      Block<T, T::pack> grad;
      ECGTWIN_EACH(T::pack) {
        const int64_t at = (key + i) * T::tile + j * kLanes;
        grad[i][j] = load_aligned(r.weights + at) * (load_aligned(r.grad_weights + at) - mean[j]) * factor;
      }
      store_elements<T, T::pack>(r.grad_score_rows, T::tile, key, 0, grad);
      store_panel<T, T::pack>(r.grad_score_panel, T::tile, key, grad);
    }
  }

  __attribute__((noinline)) void grad_of_weights(Vector* mean) const {
    Vector sum[T::vectors];
    ECGTWIN_UNROLL
    for (int j = 0; j < T::vectors; ++j) sum[j] = zero();
    row_product<T>(r.value_rows, pairs(), r.keys, r.grad_panel, pairs(),
                   [&](int64_t row, Block<T, T::rows>& block) __attribute__((always_inline)) {
                     Vector part[T::vectors];
                     ECGTWIN_UNROLL
                     for (int j = 0; j < T::vectors; ++j) part[j] = zero();
                     ECGTWIN_EACH(T::rows) {
                       const int64_t at = (row + i) * T::tile + j * kLanes;
                       part[j] = multiply_add(load_aligned(r.weights + at), block[i][j], part[j]);
                       store_aligned(r.grad_weights + at, block[i][j]);
                     }
                     ECGTWIN_UNROLL
                     for (int j = 0; j < T::vectors; ++j) sum[j] += part[j];
                   });
    for (int j = 0; j < T::vectors; ++j) mean[j] = sum[j];
  }

  void backward(const AttentionGradArgs& g) const {
    read_keys();
    pair_rows<T::pack>(r.key_rows, r.keys, r.channels, r.key_pairs);
    for (int64_t i = 0; i < r.keys * r.channels; ++i) r.grad_key[i] = r.grad_value[i] = 0;
    Vector one[T::vectors], largest[T::vectors], mean[T::vectors];
    for (int j = 0; j < T::vectors; ++j) one[j] = broadcast(1.0f);
    for (int64_t first = 0; first < a.queries; first += T::tile) {
      read_queries(first, a.query, r.query_rows, r.query_panel);
      read_queries(first, g.grad, r.grad_rows, r.grad_panel);
      pair_tiles<T::pack, N::tile>(r.query_rows, T::tile, r.channels, r.query_pairs);
      pair_tiles<T::pack, N::tile>(r.grad_rows, T::tile, r.channels, r.grad_pairs);
      score(largest);
      normalise(first);
      grad_of_weights(mean);
      grad_scores(mean);
      to_query_rows<T>(r.key_pairs, r.channels, r.grad_score_panel, key_pairs(), one, r.result, r.result_rows);
      write(g.grad_query, first, a.queries, r.result_rows);
      add_to_keys<T, N>(r.weight_rows, r.keys, r.grad_pairs, r.channels, r.grad_value);
      add_to_keys<T, N>(r.grad_score_rows, r.keys, r.query_pairs, r.channels, r.grad_key);
    }
    write_floats<S>(r.grad_key, r.channels, place(g.grad_key, 0), g.grad_key.row_stride, a.keys, a.head_size);
    write_floats<S>(r.grad_value, r.channels, place(g.grad_value, 0), g.grad_value.row_stride, a.keys, a.head_size);
  }
};

template <typename S, class T, class N>
void vector_tasks(const AttentionArgs& a, const AttentionGradArgs* gradient, int64_t begin, int64_t end) {
  const FlushDenormals flush;
  Arena arena{};
  Room<T, N>::carve(arena, a, gradient != nullptr);
  char* memory = static_cast<char*>(aligned_alloc(64, arena.used));
  arena = {memory, 0};
  Room<T, N> room = Room<T, N>::carve(arena, a, gradient != nullptr);
  for (int64_t task = begin; task < end; ++task) {
    const Head<S, T, N> head{a, room, task / a.heads, task % a.heads};
    if (gradient)
      head.backward(*gradient);
    else
      head.forward();
  }
  ECGTWIN_UNPOISON(memory, arena.used);
  free(memory);
}

#endif

void tasks(const AttentionArgs& a, const AttentionGradArgs* gradient, int64_t begin, int64_t end) {
#if defined(__AVX2__)
  if (a.dtype == Dtype::float32) return vector_tasks<float, Float32, Float32>(a, gradient, begin, end);
#if defined(__AVX512BF16__)
  if (a.dtype == Dtype::bfloat16) return vector_tasks<BFloat16, Bfloat16, NarrowBfloat16>(a, gradient, begin, end);
#else
  if (a.dtype == Dtype::bfloat16) return vector_tasks<BFloat16, Float32, Float32>(a, gradient, begin, end);
#endif
#endif
  ECGTWIN_DISPATCH(a.dtype, (scalar_tasks<T>(a, gradient, begin, end)));
}

}  // namespace

void multihead_attention(const AttentionArgs& a, int64_t begin, int64_t end) { tasks(a, nullptr, begin, end); }

void multihead_attention_backward(const AttentionGradArgs& g, int64_t begin, int64_t end) {
  tasks(g.forward, &g, begin, end);
}

}  // namespace ecgtwin::ECGTWIN_VARIANT
