// The kernels over runs of one channel (not Plan::columns): channels first.
//
// The kernels read memory in its order: all channels of the tile for one unit, then the next unit.
// Each channel's sums are a vector in L1, whose lanes are added up only once per block.

#ifndef KERAS_RENORM_OPS_NATIVE_RUNS_H_
#define KERAS_RENORM_OPS_NATIVE_RUNS_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

KR_INLINE double Total(F64 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
KR_INLINE double Total(F32 v) {
  Floats8 halves[2];
  static_assert(sizeof halves == sizeof v);
  __builtin_memcpy(halves, &v, sizeof v);
  return Total(__builtin_convertvector(halves[0], F64) + __builtin_convertvector(halves[1], F64));
}

KR_INLINE F32 LaneNumbers(F32) {
  return F32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
KR_INLINE F64 LaneNumbers(F64) { return F64{0, 1, 2, 3, 4, 5, 6, 7}; }

template <typename T> struct Runs {
  using V = typename Wide<T>::Vector;
  using Scalar = typename Wide<T>::Scalar;
  static constexpr int64_t kLanes = LanesOf<V>::value;
  static constexpr int64_t kPiece = kBlock * kLanes;

  const Problem p;
  const Plan& plan = p.plan;
  const Part part;
  const int64_t first_outer;
  const int64_t block;  // units in a block, which adds at most kBlock values to a lane
  const Scalar* const parameters;

  Runs(const Problem& problem, int64_t task)
      : p(problem),
        part(PartOf(plan, task, plan.channels)),
        first_outer(part.group * (plan.outer / plan.groups)),
        block(plan.inner * 2 > kPiece ? 1 : kPiece / (plan.inner + kLanes)),
        parameters(static_cast<const Scalar*>(p.parameters) +
                   part.group * kParameters * plan.partials) {}

  KR_INLINE V Parameter(enum Parameter which, int64_t channel) const {
    return Splat<V>(parameters[which * plan.partials + channel]);
  }

  // Values of one channel that are neighbours in memory.
  struct Piece {
    int64_t channel, element, position, size;
  };

  // Calls f(piece) for all channels of the units begin .. end - 1, in memory's order. A piece is at
  // most `most` values of a segment, from `from` on.
  template <typename F>
  KR_INLINE void ForEachPiece(int64_t begin, int64_t end, int64_t from, int64_t most, F f) const {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t outer = first_outer + unit / plan.segments;
      const int64_t first = unit % plan.segments * plan.segment + from;
      const int64_t size = Min(most, SegmentEnd(unit) - first);
      for (int64_t c = part.tile_begin; c < part.tile_end; ++c) {
        f(Piece{c, (outer * plan.channels + c) * plan.inner + first, outer * plan.inner + first,
                size});
      }
    }
  }
  KR_INLINE int64_t SegmentEnd(int64_t unit) const {
    const int64_t segment = unit % plan.segments;
    return segment == plan.segments - 1 ? plan.inner : (segment + 1) * plan.segment;
  }
  KR_INLINE int64_t SegmentSize(int64_t unit) const {
    return SegmentEnd(unit) - unit % plan.segments * plan.segment;
  }

  // Calls f(i, all, keep) for the vectors of a piece: its values i .. i + kLanes - 1. The last vector
  // ends at the last value. `keep` is 0 in its lanes that the vector before it covers, or that lie
  // before the piece (never before the run, which is longer than a vector).
  template <typename F> KR_INLINE void ForEachVector(const Piece& piece, F f) const {
    int64_t i = 0;
    for (; i + kLanes <= piece.size; i += kLanes) f(i, true, V{});
    if (i < piece.size) {
      const Scalar covered = static_cast<Scalar>(i - (piece.size - kLanes));
      f(piece.size - kLanes, false, KeepFrom(covered));
    }
  }
  KR_INLINE static V KeepFrom(Scalar lane) {
    return LaneNumbers(V{}) >= lane ? Splat<V>(1) : V{};
  }

  KR_INLINE V Weights(const Piece& piece, int64_t i) const {
    return NeighbourWeights<V>(p, (p.per_element ? piece.element : piece.position) + i);
  }

  // Sums of the tile's channels, one vector for each.
  struct Sums {
    V weight[kTileChannels], sum[kTileChannels], squares[kTileChannels];
    Scalar shift[kTileChannels];
  };

  void Clear(Sums& s) const {
    for (int64_t c = 0; c < part.tile_end - part.tile_begin; ++c) {
      s.weight[c] = s.sum[c] = s.squares[c] = V{};
    }
  }

  // ---- moments

  template <bool kWeighted>
  KR_INLINE void AddPiece(const Piece& piece, Sums& s) const {
    const T* x = Input<T>(p) + piece.element;
    const int64_t c = piece.channel - part.tile_begin;
    const V shift = Splat<V>(s.shift[c]);
    V weight = V{}, sum = V{}, squares = V{};
    ForEachVector(piece, [&](int64_t i, bool all, V keep) {
      V d = Load(x + i) - shift;
      if (!all) d = Keep(keep, d);
      if (kWeighted) {
        V w = Weights(piece, i);
        if (!all) w *= keep;
        d = Keep(w, d);
        weight += Keep(w, w);
        sum += w * d;
        squares += w * d * d;
      } else {
        sum += d;
        squares += d * d;
      }
    });
    s.weight[c] += weight;
    s.sum[c] += sum;
    s.squares[c] += squares;
  }

  // Sums a block of units: of each segment at most kPiece values, from `from` on.
  template <bool kWeighted>
  KR_INLINE void AddBlock(int64_t begin, int64_t end, int64_t from, Sums& s) const {
    Clear(s);
    ForEachPiece(begin, end, from, kPiece, [&](const Piece& piece) {
      AddPiece<kWeighted>(piece, s);
    });
  }

  template <bool kWeighted> void Moments() const {
    Sums s;
    const int64_t channels = part.tile_end - part.tile_begin;
    const int64_t at = (part.group * plan.chunks + part.chunk) * plan.partials + part.tile_begin;
    double *n = p.counts + at, *mean = p.first + at, *squares = p.second + at, *low = p.lows + at;
    for (int64_t c = 0; c < channels; ++c) n[c] = mean[c] = squares[c] = low[c] = 0;
    for (int64_t begin = part.begin; begin < part.end; begin += block) {
      const int64_t end = Min(part.end, begin + block), size = SegmentSize(begin);
      for (int64_t from = 0; from < size; from += kPiece) {
        const double values = static_cast<double>((end - begin) * Min(kPiece, size - from));
        bool unknown = false;  // a channel without a mean yet: take this block's
        for (int64_t c = 0; c < channels; ++c) {
          s.shift[c] = static_cast<Scalar>(mean[c]);
          unknown |= n[c] == 0;
        }
        if (unknown) {
          AddBlock<kWeighted>(begin, end, from, s);
          for (int64_t c = 0; c < channels; ++c) {
            const double weight = kWeighted ? Total(s.weight[c]) : values;
            if (n[c] == 0 && weight > 0) s.shift[c] = static_cast<Scalar>(Total(s.sum[c]) / weight);
          }
        }
        AddBlock<kWeighted>(begin, end, from, s);
        for (int64_t c = 0; c < channels; ++c) {
          const double weight = kWeighted ? Total(s.weight[c]) : values;
          MergeBlock(n[c], mean[c], low[c], squares[c], s.shift[c], weight, Total(s.sum[c]),
                     Total(s.squares[c]));
        }
      }
    }
  }

  // ---- gradient sums

  template <bool kWeighted, bool kRelu>
  KR_INLINE void AddGradientPiece(const Piece& piece, Sums& s) const {
    const T* x = Input<T>(p) + piece.element;
    const T* dy = Gradient<T>(p) + piece.element;
    const int64_t c = piece.channel - part.tile_begin;
    const V mean = Parameter(kPMean, piece.channel);
    const V remainder = Parameter(kPRemainder, piece.channel);
    const V scale = Parameter(kPScale, piece.channel);
    const V shift = Parameter(kPOffset, piece.channel);
    V sum = V{}, products = V{};
    ForEachVector(piece, [&](int64_t i, bool all, V keep) {
      V centred = (Load(x + i) - mean) - remainder;
      V g = Load(dy + i);
      if (kRelu) g = Keep(centred * scale + shift, g);
      if (kWeighted) {
        V w = Weights(piece, i);
        if (!all) w *= keep;
        g = Keep(w, g);
        centred = Keep(w, centred);
      } else if (!all) {
        g = Keep(keep, g);
        centred = Keep(keep, centred);
      }
      sum += g;
      products += g * centred;
    });
    s.sum[c] += sum;
    s.squares[c] += products;
  }

  template <bool kWeighted, bool kRelu> void GradientSums() const {
    Sums s;
    const int64_t channels = part.tile_end - part.tile_begin;
    const int64_t at = (part.group * plan.chunks + part.chunk) * plan.partials + part.tile_begin;
    double *first = p.first + at, *second = p.second + at;
    for (int64_t c = 0; c < channels; ++c) first[c] = second[c] = 0;
    for (int64_t begin = part.begin; begin < part.end; begin += block) {
      const int64_t end = Min(part.end, begin + block), size = SegmentSize(begin);
      for (int64_t from = 0; from < size; from += kPiece) {
        Clear(s);
        ForEachPiece(begin, end, from, kPiece, [&](const Piece& piece) {
          AddGradientPiece<kWeighted, kRelu>(piece, s);
        });
        for (int64_t c = 0; c < channels; ++c) first[c] += Total(s.sum[c]);
        for (int64_t c = 0; c < channels; ++c) second[c] += Total(s.squares[c]);
      }
    }
  }

  // ---- element by element. Two vectors that cover a value write the same bits.

  template <bool kRelu> void Normalize() const {
    ForEachPiece(part.begin, part.end, 0, plan.inner, [&](const Piece& piece) {
      const T* x = Input<T>(p) + piece.element;
      T* y = Output<T>(p) + piece.element;
      const V mean = Parameter(kPMean, piece.channel);
      const V remainder = Parameter(kPRemainder, piece.channel);
      const V scale = Parameter(kPScale, piece.channel);
      const V shift = Parameter(kPOffset, piece.channel);
      ForEachVector(piece, [&](int64_t i, bool, V) {
        V out = ((Load(x + i) - mean) - remainder) * scale + shift;
        if (kRelu) out = Relu(out);
        Store(y + i, out);
      });
    });
  }

  template <bool kWeighted, bool kRelu> void InputGradient() const {
    ForEachPiece(part.begin, part.end, 0, plan.inner, [&](const Piece& piece) {
      const T* x = Input<T>(p) + piece.element;
      const T* dy = Gradient<T>(p) + piece.element;
      T* dx = Output<T>(p) + piece.element;
      const V mean = Parameter(kPMean, piece.channel);
      const V remainder = Parameter(kPRemainder, piece.channel);
      const V scale = Parameter(kPScale, piece.channel);
      const V shift = Parameter(kPOffset, piece.channel);
      const V bias = Parameter(kPBias, piece.channel), slope = Parameter(kPSlope, piece.channel);
      ForEachVector(piece, [&](int64_t i, bool, V) {
        const V c = (Load(x + i) - mean) - remainder;
        V g = Load(dy + i);
        if (kRelu) g = Keep(c * scale + shift, g);
        const V common = bias + c * slope;
        if (kWeighted) {
          const V w = Weights(piece, i);
          Store(dx + i, Keep(w, scale * g - w * common));
        } else {
          Store(dx + i, scale * g - common);
        }
      });
    });
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_RUNS_H_
