// The kernels as the calls see them: one table of functions per input type and instruction set.

#ifndef KERAS_RENORM_OPS_NATIVE_KERNELS_H_
#define KERAS_RENORM_OPS_NATIVE_KERNELS_H_

#include <cstdint>

#include "plan.h"

namespace keras_renorm {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

// Which positions count, and how much. A mask holds bytes 0 or 1. Weights are float32 and at least 0,
// and a weight of 0 masks its position.
enum class Weighing { kNone, kMask, kWeights };

// Rows of the packed statistics [kStatistics, ghosts, channels] that forward returns and backward
// takes.
enum Statistic {
  kMean, kMeanRemainder, kVariance, kCount, kR, kD, kScale, kOffset, kInverse, kStatistics
};

// Vectors of one value per column (or per channel, for runs) that the kernels read.
enum Parameter { kPMean, kPRemainder, kPScale, kPOffset, kPBias, kPSlope, kParameters };

// What kernels work on at a time: ghost batches of one size. Scalars and per-channel vectors are
// `wide`: float, or double for double.
struct Problem {
  Plan plan;
  int64_t ghosts;       // in the whole call
  int64_t first_ghost;  // the ghost that is group 0 here
  const void* x;
  const void* dy;
  void* out;
  Weighing weighing;
  bool per_element;  // the weights have a value per element, not one per position
  const void* weights;
  bool relu;
  bool stream;  // whether to write the output past the cache: it is large and aligned to vectors
  // [groups, chunks, partials] each: (count, mean, sum of squared deviations, what rounding took from
  // the mean), or two sums.
  double* counts;
  double* first;
  double* second;
  double* lows;
  // [groups, channels] each: the totals of the whole group.
  double* total_count;
  double* total_first;
  double* total_second;
  double* total_low;
  // [groups, kParameters, partials], wide; and the same per channel, [kParameters, groups, C].
  void* parameters;
  void* channel_parameters;
};

// Per-channel operands of forward. Vectors are [channels], wide.
struct ForwardChannels {
  const void* gamma;
  const void* beta;
  const void* moving_mean;
  const void* moving_variance;
  const void* r_max;  // scalars
  const void* d_max;
  double epsilon;
  void* statistics;  // out, [kStatistics, ghosts, channels]
};

// The step of the moving statistics that follows. Vectors are [channels], wide.
struct MovingChannels {
  const void* statistics;  // [kStatistics, ghosts, channels]
  const void* moving_mean;
  const void* moving_variance;
  int64_t ghosts, channels;
  double epsilon;
  double momentum;
  bool by_stddev;   // whether the average is of sigma instead of the variance
  void* mean;       // out
  void* variance;   // out
  void* updated;    // out, a scalar: 1 if a channel was updated, else 0
};

// Per-channel operands and results of backward.
struct BackwardChannels {
  const void* statistics;  // [kStatistics, ghosts, channels]
  double* gamma_sum;       // [channels], 0 at first: the sum over the ghosts
  double* beta_sum;
  void* gamma;             // out, [channels]
  void* beta;              // out, [channels]
};

struct Kernels {
  int64_t lanes;
  // Tasks 0 .. plan.tasks() - 1, in any order, at once.
  void (*moments)(const Problem&, int64_t task);
  void (*normalize)(const Problem&, int64_t task);
  void (*gradient_sums)(const Problem&, int64_t task);
  void (*input_gradient)(const Problem&, int64_t task);
  // Per group: partial sums to totals.
  void (*merge_moments)(const Problem&, int64_t group);
  void (*merge_sums)(const Problem&, int64_t group);
  // Totals to per-channel results, then to the parameters of the next pass.
  void (*finish_forward)(const Problem&, const ForwardChannels&);
  void (*update_moving)(const MovingChannels&);
  void (*start_backward)(const Problem&, const BackwardChannels&);
  void (*finish_backward)(const Problem&, const BackwardChannels&);
  void (*spread_parameters)(const Problem&);
};

template <typename T> const Kernels& KernelsFor();
template <> const Kernels& KernelsFor<float>();
template <> const Kernels& KernelsFor<double>();
template <> const Kernels& KernelsFor<Half>();
template <> const Kernels& KernelsFor<BFloat16>();

// The set that this processor runs: "avx512", "avx2" or "baseline".
const char* InstructionSet();

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_KERNELS_H_
