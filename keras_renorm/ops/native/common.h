// What the column and run kernels share: block sizes, merging in double, the formulas of one vector.

#ifndef KERAS_RENORM_OPS_NATIVE_COMMON_H_
#define KERAS_RENORM_OPS_NATIVE_COMMON_H_

#include "simd.h"

namespace keras_renorm {
namespace KR_ISA {

// Values that a lane adds up in float32 before the sum goes on in double. The relative error of such
// a sum is about 3e-7. Sums of 2048 would leave 2e-6.
constexpr int64_t kBlock = 128;

// The first block of a task is short, because it is read twice to find its shift.
constexpr int64_t kFirstBlock = 32;

// Stands before a loop whose turns are independent. The compiler cannot see that the vectors of a
// call lie apart.
#if defined(__clang__)
#define KR_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define KR_INDEPENDENT _Pragma("GCC ivdep")
#endif

KR_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T> const T* Input(const Problem& p) { return static_cast<const T*>(p.x); }
template <typename T> const T* Gradient(const Problem& p) { return static_cast<const T*>(p.dy); }
template <typename T> T* Output(const Problem& p) { return static_cast<T*>(p.out); }

// The part of the tensor that a task works on.
struct Part {
  int64_t group, chunk, begin, end, tile_begin, tile_end;
};

inline Part PartOf(const Plan& plan, int64_t task, int64_t across) {
  Part part;
  const int64_t tile = task % plan.tiles;
  part.chunk = task / plan.tiles % plan.chunks;
  part.group = task / plan.tiles / plan.chunks;
  part.begin = part.chunk * plan.chunk_rows;
  part.end = Min(plan.rows, part.begin + plan.chunk_rows);
  part.tile_begin = tile * plan.tile;
  part.tile_end = Min(across, part.tile_begin + plan.tile);
  return part;
}

// A vector of weights: entry `at` of the mask or the weights, and the entries after it.
template <typename V> KR_INLINE V NeighbourWeights(const Problem& p, int64_t at) {
  using Floats = typename LanesOf<V>::Floats;
  using Bytes = typename LanesOf<V>::Bytes;
  if (p.weighing == Weighing::kMask) {
    const Bytes bytes = LoadRaw<Bytes>(static_cast<const uint8_t*>(p.weights) + at);
    // Through int32, as GCC 12 converts bytes to floats one by one.
    using Ints = typename LanesOf<V>::Ints;
    return __builtin_convertvector(__builtin_convertvector(bytes, Ints), V);
  }
  return __builtin_convertvector(LoadRaw<Floats>(static_cast<const float*>(p.weights) + at), V);
}

// Moves a mean that is kept as two numbers: the second is what rounding took from the first (Knuth
// 1969, TwoSum). In one double, a mean of 1e6 deviations of float64 values would be off by 1e-10 of a
// deviation, and their variance by as much.
KR_INLINE void MoveMean(double& mean, double& low, double step) {
  const double rest = low + step, moved = mean + rest, added = moved - mean;
  low = (mean - (moved - added)) + (rest - added);
  mean = moved;
}

// Running moments of one lane. Each block is summed as deviations from the running mean of the
// blocks before it. A shift that is far off costs accuracy in proportion to its distance squared,
// but that distance adds to the variance itself, too: merging n_b values whose mean is delta away
// from the mean of n_a others adds delta^2 n_a n_b / (n_a + n_b). So the relative error stays below
// (1 + n_b / n_a) times a block's, for any order of the values: 1.5e-6. A shift by a fixed row has no
// such bound: one outlier as first row, at 1e6 standard deviations, leaves 1e-1.
template <typename Scalar>
KR_INLINE void MergeBlock(double& n, double& mean, double& low, double& squares, Scalar shift,
                          double weight, double sum, double sum_of_squares) {
  const double total = n + weight;
  const double inverse = weight > 0 ? 1 / weight : 0;
  const double share = total > 0 ? weight / total : 0;
  const double deviation = sum * inverse;
  const double within = sum_of_squares - sum * deviation;
  mean = n > 0 ? mean : static_cast<double>(shift);
  const double delta = weight > 0 ? (static_cast<double>(shift) - mean) + (deviation - low) : 0;
  MoveMean(mean, low, delta * share);
  squares += (within < 0 ? 0 : within) + delta * delta * n * share;
  n = total;
}

template <typename V> KR_INLINE V Relu(V y) { return y < 0 ? V{} : y; }  // keeps NaN

template <typename V> KR_INLINE V Keep(V weight, V value) { return weight > 0 ? value : V{}; }

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_COMMON_H_
