// Between lanes and channels: merges a pass's partial sums, one per lane, into a total per channel,
// and spreads a channel's parameters to its lanes for the next pass.

#ifndef KERAS_RENORM_OPS_NATIVE_LANES_H_
#define KERAS_RENORM_OPS_NATIVE_LANES_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

// The column of lane i of a row: the last vector ends at the last column.
KR_INLINE int64_t ColumnOf(const Plan& plan, int64_t i) {
  const int64_t last = (plan.vectors - 1) * plan.lanes;
  return i < last ? i : plan.width - plan.lanes + (i - last);
}

// The channel of lane i.
KR_INLINE int64_t ChannelOf(const Plan& plan, int64_t i) {
  return plan.columns ? ColumnOf(plan, i) / plan.inner % plan.channels : i;
}

// Whether the last vector shares the column of its lane i with the vector before it.
KR_INLINE bool Shared(const Plan& plan, int64_t i) {
  const int64_t last = (plan.vectors - 1) * plan.lanes;
  return plan.columns && i >= last && ColumnOf(plan, i) < last;
}

template <typename T> struct Lanes {
  using Scalar = typename Wide<T>::Scalar;

  // Weighted mean of means, then deviations from it, in the order of the chunks: exact to double's
  // rounding. The lanes of the first chunk take the totals of all chunks.
  static void MergeMoments(const Problem& p, int64_t group) {
    const Plan& plan = p.plan;
    double* const n = p.total_count + group * plan.channels;
    double* const mean = p.total_first + group * plan.channels;
    double* const squares = p.total_second + group * plan.channels;
    double* const low = p.total_low + group * plan.channels;
    const int64_t start = group * plan.chunks * plan.partials;
    double* const lane_n = p.counts + start;
    double* const lane_mean = p.first + start;
    double* const lane_squares = p.second + start;
    double* const lane_low = p.lows + start;
    for (int64_t k = 1; k < plan.chunks; ++k) {
      const double* const n_k = lane_n + k * plan.partials;
      const double* const mean_k = lane_mean + k * plan.partials;
      const double* const squares_k = lane_squares + k * plan.partials;
      const double* const low_k = lane_low + k * plan.partials;
      KR_INDEPENDENT
      for (int64_t i = 0; i < plan.partials; ++i) {
        MergeBlock(lane_n[i], lane_mean[i], lane_low[i], lane_squares[i], mean_k[i], n_k[i],
                   n_k[i] * low_k[i], squares_k[i]);
      }
    }
    if (plan.plain && plan.chunks > 0) {
      const int64_t bytes = plan.channels * sizeof(double);
      __builtin_memcpy(n, lane_n, bytes);
      __builtin_memcpy(mean, lane_mean, bytes);
      __builtin_memcpy(squares, lane_squares, bytes);
      __builtin_memcpy(low, lane_low, bytes);
      return;
    }
    for (int64_t c = 0; c < plan.channels; ++c) n[c] = mean[c] = squares[c] = low[c] = 0;
    for (int64_t i = 0; plan.chunks > 0 && i < plan.partials; ++i) {
      if (Shared(plan, i) || lane_n[i] == 0) continue;  // 0: filled up, or masked
      const int64_t c = ChannelOf(plan, i);
      MergeBlock(n[c], mean[c], low[c], squares[c], lane_mean[i], lane_n[i],
                 lane_n[i] * lane_low[i], lane_squares[i]);
    }
  }

  static void MergeSums(const Problem& p, int64_t group) {
    const Plan& plan = p.plan;
    double* const first = p.total_first + group * plan.channels;
    double* const second = p.total_second + group * plan.channels;
    const int64_t start = group * plan.chunks * plan.partials;
    double *const lane_first = p.first + start, *const lane_second = p.second + start;
    for (int64_t k = 1; k < plan.chunks; ++k) {
      KR_INDEPENDENT
      for (int64_t i = 0; i < plan.partials; ++i) {
        lane_first[i] += lane_first[k * plan.partials + i];
        lane_second[i] += lane_second[k * plan.partials + i];
      }
    }
    if (plan.plain && plan.chunks > 0) {
      const int64_t bytes = plan.channels * sizeof(double);
      __builtin_memcpy(first, lane_first, bytes);
      __builtin_memcpy(second, lane_second, bytes);
      return;
    }
    for (int64_t c = 0; c < plan.channels; ++c) first[c] = second[c] = 0;
    for (int64_t i = 0; plan.chunks > 0 && i < plan.partials; ++i) {
      if (Shared(plan, i)) continue;
      const int64_t c = ChannelOf(plan, i);
      first[c] += lane_first[i];
      second[c] += lane_second[i];
    }
  }

  static void SpreadParameters(const Problem& p) {
    const Plan& plan = p.plan;
    const Scalar* const from = static_cast<const Scalar*>(p.channel_parameters);
    Scalar* const to = static_cast<Scalar*>(p.parameters);
    const auto source = [&](int64_t group, int64_t which) {
      return from + (which * plan.groups + group) * plan.channels;
    };
    const auto target = [&](int64_t group, int64_t which) {
      return to + (group * kParameters + which) * plan.partials;
    };
    if (plan.plain) {
      for (int64_t group = 0; group < plan.groups; ++group) {
        for (int64_t w = 0; w < kParameters; ++w) {
          __builtin_memcpy(target(group, w), source(group, w), plan.channels * sizeof(Scalar));
        }
      }
      return;
    }
    for (int64_t i = 0; i < plan.partials; ++i) {
      const int64_t c = ChannelOf(plan, i);
      for (int64_t group = 0; group < plan.groups; ++group) {
        for (int64_t w = 0; w < kParameters; ++w) target(group, w)[i] = source(group, w)[c];
      }
    }
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_LANES_H_
