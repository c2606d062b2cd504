// The kernels over rows of columns (Plan::columns): channels last, and short runs.
//
// The kernels take eight or four rows together, vector by vector, so that they load and store sums
// once per group of rows.

#ifndef KERAS_RENORM_OPS_NATIVE_COLUMNS_H_
#define KERAS_RENORM_OPS_NATIVE_COLUMNS_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

template <typename T> struct Columns {
  using V = typename Wide<T>::Vector;
  using Scalar = typename Wide<T>::Scalar;
  static constexpr int64_t kLanes = LanesOf<V>::value;
  static constexpr int64_t kTile = kTileVectors * kLanes;

  // How far ahead memory is fetched into the cache, in memory's order. The kernels read the vectors
  // of some rows side by side, an order that processors do not foresee. What is not in the core's own
  // cache is then read up to twice as fast at 128 to 512 channels, and no faster at 64 (AMD's Zen 4,
  // the calls made from C). Fetching as far ahead in the order of reading halves the speed at 64
  // channels. Where a tile is only part of a row, fetching gains nothing.
  static constexpr int64_t kBytesAhead = 4096;

  const Problem p;  // a copy: stores through pointers cannot change it, so it stays in registers
  const Plan& plan = p.plan;
  const Part part;
  const int64_t width;
  const int64_t offset;       // of the group's first value
  const int64_t vectors;      // in this tile
  const int64_t tile_column;  // of its first vector
  const int64_t last_column;  // where a vector can begin
  const Scalar* const parameters;
  const bool uniform;  // whether the lanes of a vector share one position
  int32_t positions[kTile];  // of the columns, from the first position of a row

  Columns(const Problem& problem, int64_t task)
      : p(problem),
        part(PartOf(plan, task, plan.vectors)),
        width(plan.width),
        offset(part.group * plan.group_size()),
        vectors(part.tile_end - part.tile_begin),
        tile_column(part.tile_begin * kLanes),
        last_column(width - kLanes),
        parameters(static_cast<const Scalar*>(p.parameters) +
                   part.group * kParameters * plan.partials + tile_column),
        uniform(plan.inner == 1 && (plan.fold == 1 || plan.channels % kLanes == 0)) {
    if (p.weighing == Weighing::kNone || p.per_element) return;
    for (int64_t v = 0; v < vectors; ++v) {
      for (int64_t i = 0; i < kLanes; ++i) {
        const int64_t column = Column(v) + i;
        positions[v * kLanes + i] = static_cast<int32_t>(
            column / (plan.channels * plan.inner) * plan.inner + column % plan.inner);
      }
    }
  }

  // First column of the tile's vector v.
  KR_INLINE int64_t Column(int64_t v) const { return Min(tile_column + v * kLanes, last_column); }

  // Fetches the v-th part of what lies kBytesAhead of R rows: R vectors. A fetch beyond the end makes
  // no fault; the address is an integer, as no pointer may point there. Single rows are too few.
  template <int R> KR_INLINE void FetchAhead(const T* rows, int64_t v) const {
    if (R == 1 || plan.tiles > 1) return;
    constexpr int64_t kBytes = kLanes * sizeof(T);
    const uintptr_t from = reinterpret_cast<uintptr_t>(rows) + kBytesAhead + v * R * kBytes;
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(reinterpret_cast<const void*>(from + r * kBytes));
    }
  }

  KR_INLINE V Parameter(enum Parameter which, int64_t v) const {
    return LoadRaw<V>(parameters + which * plan.partials + v * kLanes);
  }
  KR_INLINE int64_t PartialsAt() const {
    return (part.group * plan.chunks + part.chunk) * plan.partials + tile_column;
  }

  // Weights of the positions of R rows, side by side, so that columns that share a position convert
  // its weight once. Lane by lane, a mask over 16 channels took twice as long.
  template <int R> struct RowWeights { Scalar at[R][kMostPositions]; };

  template <int R> KR_INLINE void LoadWeights(int64_t row, RowWeights<R>& weights) const {
    if (p.per_element) return;
    const int64_t count = plan.fold * plan.inner;
    const int64_t first = part.group * (plan.outer / plan.groups) * plan.inner + row * count;
    for (int r = 0; r < R; ++r) {
      const int64_t from = first + r * count;
      if (p.weighing == Weighing::kMask) {
        const uint8_t* mask = static_cast<const uint8_t*>(p.weights) + from;
        for (int64_t i = 0; i < count; ++i) weights.at[r][i] = mask[i] ? 1 : 0;
      } else {
        const float* given = static_cast<const float*>(p.weights) + from;
        for (int64_t i = 0; i < count; ++i) weights.at[r][i] = given[i];
      }
    }
  }

  // Weights of the vector at (row, v), from the weights `at` of the row's positions.
  KR_INLINE V Weights(int64_t row, int64_t v, const Scalar* at) const {
    if (p.per_element) return NeighbourWeights<V>(p, offset + row * width + Column(v));
    if (uniform) return Splat<V>(at[positions[v * kLanes]]);
    Scalar lanes[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = at[positions[v * kLanes + i]];
    return LoadRaw<V>(lanes);
  }

  // ---- moments

  struct Sums {
    Scalar shift[kTile], weight[kTile], sum[kTile], squares[kTile];
  };

  // Adds R rows to every vector's sums of deviations from the shift.
  template <int R> KR_INLINE void AddRows(const T* x, Sums& s) const {
    for (int64_t v = 0; v < vectors; ++v) {
      const V shift = LoadRaw<V>(s.shift + v * kLanes);
      const T* at = x + Column(v);
      FetchAhead<R>(x, v);
      V d[R];
      for (int r = 0; r < R; ++r) d[r] = Load(at + r * width) - shift;
      V squares = d[0] * d[0];
      for (int r = 1; r < R; ++r) squares += d[r] * d[r];
      for (int half = R / 2; half > 0; half /= 2) {  // in pairs: shorter waits, less rounding
        for (int r = 0; r < half; ++r) d[r] += d[r + half];
      }
      const V sum = d[0];
      StoreRaw(s.sum + v * kLanes, LoadRaw<V>(s.sum + v * kLanes) + sum);
      StoreRaw(s.squares + v * kLanes, LoadRaw<V>(s.squares + v * kLanes) + squares);
    }
  }

  template <int R> KR_INLINE void AddWeightedRows(const T* x, int64_t row, Sums& s) const {
    RowWeights<R> weights;
    LoadWeights<R>(row, weights);
    for (int64_t v = 0; v < vectors; ++v) {
      const V shift = LoadRaw<V>(s.shift + v * kLanes);
      V weight = V{}, sum = V{}, squares = V{};
      for (int r = 0; r < R; ++r) {
        const V w = Weights(row + r, v, weights.at[r]);
        const V d = Keep(w, Load(x + r * width + Column(v)) - shift);
        weight += Keep(w, w);
        sum += w * d;
        squares += w * d * d;
      }
      StoreRaw(s.weight + v * kLanes, LoadRaw<V>(s.weight + v * kLanes) + weight);
      StoreRaw(s.sum + v * kLanes, LoadRaw<V>(s.sum + v * kLanes) + sum);
      StoreRaw(s.squares + v * kLanes, LoadRaw<V>(s.squares + v * kLanes) + squares);
    }
  }

  // Sums rows begin .. end - 1.
  template <bool kWeighted> void AddBlock(int64_t begin, int64_t end, Sums& s) const {
    const T* x = Input<T>(p) + offset;
    const int64_t used = vectors * kLanes;
    for (int64_t i = 0; i < used; ++i) s.weight[i] = s.sum[i] = s.squares[i] = 0;
    int64_t row = begin;
    if (kWeighted) {
      for (; row + 4 <= end; row += 4) AddWeightedRows<4>(x + row * width, row, s);
      for (; row < end; ++row) AddWeightedRows<1>(x + row * width, row, s);
      return;
    }
    for (; row + 8 <= end; row += 8) AddRows<8>(x + row * width, s);
    for (; row < end; ++row) AddRows<1>(x + row * width, s);
    for (int64_t i = 0; i < used; ++i) s.weight[i] = static_cast<Scalar>(end - begin);
  }

  template <bool kWeighted> void Moments() const {
    Sums s;
    const int64_t used = vectors * kLanes;
    double* n = p.counts + PartialsAt();
    double* mean = p.first + PartialsAt();
    double* squares = p.second + PartialsAt();
    double* low = p.lows + PartialsAt();
    for (int64_t i = 0; i < used; ++i) n[i] = mean[i] = squares[i] = low[i] = 0;
    for (int64_t begin = part.begin; begin < part.end;) {
      const bool first = begin == part.begin;
      const int64_t end = Min(part.end, begin + (first ? kFirstBlock : kBlock));
      for (int64_t i = 0; i < used; ++i) s.shift[i] = static_cast<Scalar>(mean[i]);
      bool unknown = first;  // a lane without a mean yet: take this block's
      for (int64_t i = 0; kWeighted && i < used; ++i) unknown |= n[i] == 0;
      if (unknown) {
        AddBlock<kWeighted>(begin, end, s);
        KR_INDEPENDENT
        for (int64_t i = 0; i < used; ++i) {
          const Scalar mean_here = s.sum[i] / (s.weight[i] > 0 ? s.weight[i] : Scalar(1));
          s.shift[i] = ((n[i] == 0) & (s.weight[i] > 0)) ? mean_here : s.shift[i];
        }
      }
      AddBlock<kWeighted>(begin, end, s);
      KR_INDEPENDENT
      for (int64_t i = 0; i < used; ++i) {
        MergeBlock(n[i], mean[i], low[i], squares[i], s.shift[i], s.weight[i], s.sum[i],
                   s.squares[i]);
      }
      begin = end;
    }
  }

  // ---- gradient sums

  template <int R, bool kRelu> KR_INLINE void AddGradientRows(int64_t row, Sums& s) const {
    const T* x = Input<T>(p) + offset + row * width;
    const T* dy = Gradient<T>(p) + offset + row * width;
    for (int64_t v = 0; v < vectors; ++v) {
      const V mean = Parameter(kPMean, v), remainder = Parameter(kPRemainder, v);
      const V scale = kRelu ? Parameter(kPScale, v) : V{};
      const V shift = kRelu ? Parameter(kPOffset, v) : V{};
      const int64_t at = Column(v);
      FetchAhead<R>(x, v);
      FetchAhead<R>(dy, v);
      V sum = V{}, products = V{};
      for (int r = 0; r < R; ++r) {
        const V c = (Load(x + r * width + at) - mean) - remainder;
        V g = Load(dy + r * width + at);
        if (kRelu) g = Keep(c * scale + shift, g);
        sum += g;
        products += g * c;
      }
      StoreRaw(s.sum + v * kLanes, LoadRaw<V>(s.sum + v * kLanes) + sum);
      StoreRaw(s.squares + v * kLanes, LoadRaw<V>(s.squares + v * kLanes) + products);
    }
  }

  template <int R, bool kRelu>
  KR_INLINE void AddWeightedGradientRows(int64_t row, Sums& s) const {
    RowWeights<R> weights;
    LoadWeights<R>(row, weights);
    for (int64_t v = 0; v < vectors; ++v) {
      const V mean = Parameter(kPMean, v), remainder = Parameter(kPRemainder, v);
      const V scale = kRelu ? Parameter(kPScale, v) : V{};
      const V shift = kRelu ? Parameter(kPOffset, v) : V{};
      V sum = V{}, products = V{};
      for (int r = 0; r < R; ++r) {
        const V w = Weights(row + r, v, weights.at[r]);
        const int64_t element = offset + (row + r) * width + Column(v);
        const V c = Keep(w, (Load(Input<T>(p) + element) - mean) - remainder);
        V g = Keep(w, Load(Gradient<T>(p) + element));
        if (kRelu) g = Keep(c * scale + shift, g);
        sum += g;
        products += g * c;
      }
      StoreRaw(s.sum + v * kLanes, LoadRaw<V>(s.sum + v * kLanes) + sum);
      StoreRaw(s.squares + v * kLanes, LoadRaw<V>(s.squares + v * kLanes) + products);
    }
  }

  template <bool kWeighted, bool kRelu> void GradientSums() const {
    Sums s;
    const int64_t used = vectors * kLanes;
    double* first = p.first + PartialsAt();
    double* second = p.second + PartialsAt();
    for (int64_t i = 0; i < used; ++i) first[i] = second[i] = 0;
    for (int64_t begin = part.begin; begin < part.end; begin += kBlock) {
      const int64_t end = Min(part.end, begin + kBlock);
      for (int64_t i = 0; i < used; ++i) s.sum[i] = s.squares[i] = 0;
      int64_t row = begin;
      if (kWeighted) {
        for (; row + 4 <= end; row += 4) AddWeightedGradientRows<4, kRelu>(row, s);
        for (; row < end; ++row) AddWeightedGradientRows<1, kRelu>(row, s);
      }
      for (; row + 4 <= end; row += 4) AddGradientRows<4, kRelu>(row, s);
      for (; row < end; ++row) AddGradientRows<1, kRelu>(row, s);
      for (int64_t i = 0; i < used; ++i) first[i] += s.sum[i];
      for (int64_t i = 0; i < used; ++i) second[i] += s.squares[i];
    }
  }

  // ---- element by element

  template <bool kStream> KR_INLINE static void Write(T* to, V value) {
    if constexpr (kStream) {
      Stream(to, value);
    } else {
      Store(to, value);
    }
  }

  template <int R, bool kRelu, bool kStream> KR_INLINE void NormalizeRows(int64_t row) const {
    const T* x = Input<T>(p) + offset + row * width;
    T* y = Output<T>(p) + offset + row * width;
    for (int64_t v = 0; v < vectors; ++v) {
      const V mean = Parameter(kPMean, v), remainder = Parameter(kPRemainder, v);
      const V scale = Parameter(kPScale, v), shift = Parameter(kPOffset, v);
      const int64_t at = Column(v);
      FetchAhead<R>(x, v);
      for (int r = 0; r < R; ++r) {
        V out = ((Load(x + r * width + at) - mean) - remainder) * scale + shift;
        if (kRelu) out = Relu(out);
        Write<kStream>(y + r * width + at, out);
      }
    }
  }

  template <bool kRelu, bool kStream> void NormalizePart() const {
    int64_t row = part.begin;
    for (; row + 4 <= part.end; row += 4) NormalizeRows<4, kRelu, kStream>(row);
    for (; row < part.end; ++row) NormalizeRows<1, kRelu, kStream>(row);
    if (kStream) FenceStreams();
  }

  template <bool kRelu> void Normalize() const {
    p.stream ? NormalizePart<kRelu, true>() : NormalizePart<kRelu, false>();
  }

  template <int R, bool kWeighted, bool kRelu, bool kStream>
  KR_INLINE void GradientRows(int64_t row) const {
    const T* x = Input<T>(p) + offset + row * width;
    const T* dy = Gradient<T>(p) + offset + row * width;
    T* dx = Output<T>(p) + offset + row * width;
    RowWeights<kWeighted ? R : 1> weights;
    if constexpr (kWeighted) LoadWeights<R>(row, weights);
    for (int64_t v = 0; v < vectors; ++v) {
      const V mean = Parameter(kPMean, v), remainder = Parameter(kPRemainder, v);
      const V scale = Parameter(kPScale, v), bias = Parameter(kPBias, v);
      const V slope = Parameter(kPSlope, v);
      const V shift = kRelu ? Parameter(kPOffset, v) : V{};
      const int64_t at = Column(v);
      FetchAhead<R>(x, v);
      FetchAhead<R>(dy, v);
      for (int r = 0; r < R; ++r) {
        const V c = (Load(x + r * width + at) - mean) - remainder;
        V g = Load(dy + r * width + at);
        if (kRelu) g = Keep(c * scale + shift, g);
        V common = bias + c * slope;
        if (kWeighted) {
          const V w = Weights(row + r, v, weights.at[kWeighted ? r : 0]);
          Store(dx + r * width + at, Keep(w, scale * g - w * common));
        } else {
          Write<kStream>(dx + r * width + at, scale * g - common);
        }
      }
    }
  }

  template <bool kWeighted, bool kRelu, bool kStream> void InputGradientPart() const {
    int64_t row = part.begin;
    for (; row + 4 <= part.end; row += 4) GradientRows<4, kWeighted, kRelu, kStream>(row);
    for (; row < part.end; ++row) GradientRows<1, kWeighted, kRelu, kStream>(row);
    if (kStream) FenceStreams();
  }

  template <bool kWeighted, bool kRelu> void InputGradient() const {
    if (p.stream && !kWeighted) {
      InputGradientPart<kWeighted, kRelu, !kWeighted>();
    } else {
      InputGradientPart<kWeighted, kRelu, false>();
    }
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_COLUMNS_H_
