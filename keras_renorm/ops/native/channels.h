// Per-channel work between two passes over the tensor: merging sums, and the formulas of
// Batch Renormalization (arXiv 1702.03275, Algorithm 1 and section 3). All in double.

#ifndef KERAS_RENORM_OPS_XLA_CHANNELS_H_
#define KERAS_RENORM_OPS_XLA_CHANNELS_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

// The channel of partial sum i of a row, or -1 for a lane that the last vector shares with the one
// before it.
KR_INLINE int64_t ChannelOf(const Plan& plan, int64_t i) {
  if (!plan.columns) return i;
  const int64_t last = (plan.vectors - 1) * plan.lanes;
  int64_t column = i;
  if (i >= last) {
    column = plan.width - plan.lanes + (i - last);
    if (column < last) return -1;
  }
  return column / plan.inner % plan.channels;
}

// Same, for the values that spread_parameters writes: shared lanes have a channel too.
KR_INLINE int64_t ParameterChannel(const Plan& plan, int64_t i) {
  if (!plan.columns) return i;
  const int64_t last = (plan.vectors - 1) * plan.lanes;
  const int64_t column = i >= last ? plan.width - plan.lanes + (i - last) : i;
  return column / plan.inner % plan.channels;
}

// Calls f(element, position, channel) for the rows that filled no row of the plan.
template <typename F> KR_INLINE void ForEachRest(const Plan& plan, int64_t group, F f) {
  const int64_t per_group = plan.outer / plan.groups;
  for (int64_t o = group * per_group + plan.rows * plan.fold; o < (group + 1) * per_group; ++o) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      for (int64_t i = 0; i < plan.inner; ++i) {
        f((o * plan.channels + c) * plan.inner + i, o * plan.inner + i, c);
      }
    }
  }
}

template <typename T> struct Channels {
  using Scalar = typename Wide<T>::Scalar;

  static double Value(const void* base, int64_t i) { return static_cast<const Scalar*>(base)[i]; }

  static double RestWeight(const Problem& p, int64_t element, int64_t position) {
    return p.weighing == Weighing::kNone ? 1 : WeightAt(p, element, position);
  }

  // Weighted mean of means, then deviations from it: exact to double's rounding, in the order of
  // the chunks. The lanes of the first chunk are used for the totals of all.
  static void MergeMoments(const Problem& p, int64_t group) {
    const Plan& plan = p.plan;
    double* const n = p.total_count + group * plan.channels;
    double* const mean = p.total_first + group * plan.channels;
    double* const squares = p.total_second + group * plan.channels;
    const int64_t start = group * plan.chunks * plan.partials;
    double* const lane_n = p.counts + start;
    double* const lane_mean = p.first + start;
    double* const lane_squares = p.second + start;
    for (int64_t k = 1; k < plan.chunks; ++k) {
      const double* const n_k = lane_n + k * plan.partials;
      const double* const mean_k = lane_mean + k * plan.partials;
      const double* const squares_k = lane_squares + k * plan.partials;
      KR_INDEPENDENT
      for (int64_t i = 0; i < plan.partials; ++i) {
        const double total = lane_n[i] + n_k[i];
        const double share = total > 0 ? n_k[i] / total : 0;
        const double delta = n_k[i] > 0 ? mean_k[i] - lane_mean[i] : 0;
        lane_squares[i] += squares_k[i] + delta * delta * lane_n[i] * share;
        lane_mean[i] += delta * share;
        lane_n[i] = total;
      }
    }
    if (plan.plain && plan.chunks > 0) {
      const int64_t bytes = plan.channels * sizeof(double);
      __builtin_memcpy(n, lane_n, bytes);
      __builtin_memcpy(mean, lane_mean, bytes);
      __builtin_memcpy(squares, lane_squares, bytes);
      return;
    }
    for (int64_t c = 0; c < plan.channels; ++c) n[c] = mean[c] = squares[c] = 0;
    for (int64_t i = 0; plan.chunks > 0 && i < plan.partials; ++i) {
      const int64_t c = ChannelOf(plan, i);
      if (c >= 0) {
        MergeBlock(n[c], mean[c], squares[c], lane_mean[i], lane_n[i], 0., lane_squares[i]);
      }
    }
    if (!plan.columns) return;
    ForEachRest(plan, group, [&](int64_t element, int64_t position, int64_t c) {
      const double w = RestWeight(p, element, position);
      if (!(w > 0)) return;
      const double x = LoadOne(Input<T>(p) + element);
      MergeBlock(n[c], mean[c], squares[c], x, w, 0., x * 0);
    });
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
      const int64_t c = ChannelOf(plan, i);
      if (c < 0) continue;
      first[c] += lane_first[i];
      second[c] += lane_second[i];
    }
    if (!plan.columns) return;
    ForEachRest(plan, group, [&](int64_t element, int64_t position, int64_t c) {
      if (!(RestWeight(p, element, position) > 0)) return;
      const Scalar centred = RestCentred(p, group, element, c);
      const Scalar g = RestGradient(p, group, element, c, centred);
      first[c] += g;
      second[c] += static_cast<double>(g) * centred;
    });
  }

  // ---- the rest of the rows, one value at a time

  static Scalar Parameter(const Problem& p, enum Parameter which, int64_t group, int64_t c) {
    return static_cast<const Scalar*>(
        p.channel_parameters)[(which * p.plan.groups + group) * p.plan.channels + c];
  }

  static Scalar RestCentred(const Problem& p, int64_t group, int64_t element, int64_t c) {
    return (LoadOne(Input<T>(p) + element) - Parameter(p, kPMean, group, c)) -
           Parameter(p, kPRemainder, group, c);
  }

  static Scalar RestAffine(const Problem& p, int64_t group, int64_t c, Scalar centred) {
    return centred * Parameter(p, kPScale, group, c) + Parameter(p, kPOffset, group, c);
  }

  static Scalar RestGradient(const Problem& p, int64_t group, int64_t element, int64_t c,
                             Scalar centred) {
    if (p.relu && !(RestAffine(p, group, c, centred) > 0)) return 0;
    return LoadOne(Gradient<T>(p) + element);
  }

  static void NormalizeRest(const Problem& p) {
    for (int64_t group = 0; p.plan.rest > 0 && group < p.plan.groups; ++group) {
      ForEachRest(p.plan, group, [&](int64_t element, int64_t, int64_t c) {
        const Scalar y = RestAffine(p, group, c, RestCentred(p, group, element, c));
        StoreOne(Output<T>(p) + element, p.relu && y < 0 ? Scalar(0) : y);
      });
    }
  }

  static void InputGradientRest(const Problem& p) {
    for (int64_t group = 0; p.plan.rest > 0 && group < p.plan.groups; ++group) {
      ForEachRest(p.plan, group, [&](int64_t element, int64_t position, int64_t c) {
        const Scalar w = static_cast<Scalar>(RestWeight(p, element, position));
        Scalar dx = 0;
        if (w > 0) {
          const Scalar centred = RestCentred(p, group, element, c);
          const Scalar g = RestGradient(p, group, element, c, centred);
          const Scalar common =
              Parameter(p, kPBias, group, c) + centred * Parameter(p, kPSlope, group, c);
          dx = Parameter(p, kPScale, group, c) * g - w * common;
        }
        StoreOne(Output<T>(p) + element, dx);
      });
    }
  }

  // ---- formulas

  // Where a row of the packed statistics begins for the groups of a problem.
  static int64_t Packed(const Problem& p, enum Statistic which) {
    return (which * p.ghosts + p.first_ghost) * p.plan.channels;
  }

  // Moments to r, d, scale and offset. Those of a channel without a single valid value are 0.
  static void FinishForward(const Problem& p, const ForwardChannels& f) {
    // Limits below their least values count as these: so plain batch norm.
    const double r_max = Largest(Value(f.r_max, 0), 1), d_max = Largest(Value(f.d_max, 0), 0);
    const double r_min = 1 / r_max, epsilon = f.epsilon;
    const Scalar* const gammas = static_cast<const Scalar*>(f.gamma);
    const Scalar* const betas = static_cast<const Scalar*>(f.beta);
    const Scalar* const moving_means = static_cast<const Scalar*>(f.moving_mean);
    const Scalar* const moving_variances = static_cast<const Scalar*>(f.moving_variance);
    for (int64_t group = 0; group < p.plan.groups; ++group) {
      const int64_t at = group * p.plan.channels;
      const double* const counts = p.total_count + at;
      const double* const means = p.total_first + at;
      const double* const squares = p.total_second + at;
      Scalar* out[kStatistics];
      for (int which = 0; which < kStatistics; ++which) {
        out[which] = static_cast<Scalar*>(f.statistics) +
                     Packed(p, static_cast<enum Statistic>(which)) + at;
      }
      KR_INDEPENDENT
      for (int64_t c = 0; c < p.plan.channels; ++c) {
        const double n = counts[c], mean = means[c];
        const double variance = n > 0 ? squares[c] / n : 0;
        const double sigma_b = __builtin_sqrt(variance + epsilon);
        const double sigma = __builtin_sqrt(moving_variances[c] + epsilon);
        const Scalar r = static_cast<Scalar>(Clip(sigma_b / sigma, r_min, r_max));
        const Scalar d = static_cast<Scalar>(Clip((mean - moving_means[c]) / sigma, -d_max, d_max));
        const Scalar mean_out = static_cast<Scalar>(mean);
        out[kMean][c] = mean_out;
        out[kMeanRemainder][c] = static_cast<Scalar>(mean - mean_out);
        out[kVariance][c] = static_cast<Scalar>(variance);
        out[kCount][c] = static_cast<Scalar>(n);
        out[kR][c] = r;
        out[kD][c] = d;
        out[kScale][c] = static_cast<Scalar>(static_cast<double>(gammas[c]) * r / sigma_b);
        out[kOffset][c] = static_cast<Scalar>(static_cast<double>(gammas[c]) * d + betas[c]);
        out[kInverse][c] = static_cast<Scalar>(1 / sigma_b);
      }
    }
    CopyParameters(p, static_cast<const Scalar*>(f.statistics));
  }

  static double Largest(double v, double least) { return v < least ? least : v; }

  static double Clip(double v, double low, double high) {
    v = v < low ? low : v;  // a NaN stays one, and shows in the output
    return v > high ? high : v;
  }

  // What normalising and both gradient passes read of the packed statistics.
  static void CopyParameters(const Problem& p, const Scalar* statistics) {
    const int64_t size = p.plan.groups * p.plan.channels;
    const auto copy = [&](enum Parameter parameter, enum Statistic which) {
      __builtin_memcpy(static_cast<Scalar*>(p.channel_parameters) + parameter * size,
                       statistics + Packed(p, which), size * sizeof(Scalar));
    };
    copy(kPMean, kMean);
    copy(kPRemainder, kMeanRemainder);
    copy(kPScale, kScale);
    copy(kPOffset, kOffset);
  }

  // The moving statistics after a step; ops/moving.py has the formulas, and why. Of a channel the
  // ghosts that have positions and finite moments count, each by its number of positions.
  static void UpdateMoving(const MovingChannels& m) {
    m.ghosts == 1 ? UpdateMovingOf<true>(m) : UpdateMovingOf<false>(m);
  }

  // With kOneGhost the inner loop is none, and the outer one runs in vectors.
  template <bool kOneGhost> static void UpdateMovingOf(const MovingChannels& m) {
    const int64_t channels = m.channels, size = m.ghosts * channels;
    const int64_t ghosts = kOneGhost ? 1 : m.ghosts;
    const auto row = [&](enum Statistic which) {
      return static_cast<const Scalar*>(m.statistics) + which * size;
    };
    const Scalar *const counts = row(kCount), *const variances = row(kVariance);
    const Scalar *const means = row(kMean), *const remainders = row(kMeanRemainder);
    const Scalar* const moving_mean = static_cast<const Scalar*>(m.moving_mean);
    const Scalar* const moving_variance = static_cast<const Scalar*>(m.moving_variance);
    Scalar *const new_mean = static_cast<Scalar*>(m.mean);
    Scalar *const new_variance = static_cast<Scalar*>(m.variance);
    const double alpha = 1 - m.momentum, epsilon = m.epsilon;
    const bool by_stddev = m.by_stddev;
    // With a momentum of 0 the old statistics have no weight: 0 in their place, and none of their
    // rounding.
    const bool weightless = m.momentum == 0;
    int64_t updated = 0;
    KR_INDEPENDENT
    for (int64_t c = 0; c < channels; ++c) {
      const double mu = weightless ? 0 : moving_mean[c], old = weightless ? 0 : moving_variance[c];
      const double sigma = __builtin_sqrt(old + epsilon);
      double count = 0, mean = 0, variance = 0;  // sums of differences from the moving ones
      for (int64_t g = 0; g < ghosts; ++g) {
        const int64_t i = g * channels + c;
        const double n = counts[i], var = variances[i], mean_b = means[i];
        const bool counts_here = (n > 0) & (mean_b - mean_b == 0) & (var - var == 0);  // finite
        const double sigma_b = __builtin_sqrt(var + epsilon);
        const double change = by_stddev ? (var - old) / (sigma_b + sigma) : var - old;
        count += counts_here ? n : 0;
        mean += counts_here ? n * (mean_b - mu + remainders[i]) : 0;
        variance += counts_here ? n * change : 0;
      }
      updated += count > 0 ? 1 : 0;
      const double share = count > 0 ? alpha / count : 0;
      const double step = share * variance;
      const double next = old + (by_stddev ? step * (2 * sigma + step) : step);
      const double least = by_stddev & (next < 0) ? 0 : next;
      new_mean[c] = count > 0 ? static_cast<Scalar>(mu + share * mean) : moving_mean[c];
      new_variance[c] = count > 0 ? static_cast<Scalar>(least) : moving_variance[c];
    }
    *static_cast<Scalar*>(m.updated) = updated > 0 ? 1 : 0;
  }

  static void StartBackward(const Problem& p, const BackwardChannels& b) {
    CopyParameters(p, static_cast<const Scalar*>(b.statistics));
  }

  // dgamma = S2 r / sigma_B + d S1, dbeta = S1, summed over the groups; and the two terms of
  // dx = scale dy - bias - centred slope, bias = scale S1 / m, slope = scale S2 / (m sigma_B^2).
  static void FinishBackward(const Problem& p, const BackwardChannels& b) {
    const int64_t size = p.plan.groups * p.plan.channels;
    double *const gamma_sum = b.gamma_sum, *const beta_sum = b.beta_sum;
    for (int64_t group = 0; group < p.plan.groups; ++group) {
      const int64_t at = group * p.plan.channels;
      const double *const first = p.total_first + at, *const second = p.total_second + at;
      const auto row = [&](enum Statistic which) {
        return static_cast<const Scalar*>(b.statistics) + Packed(p, which) + at;
      };
      const Scalar *const inverses = row(kInverse), *const counts = row(kCount);
      const Scalar *const scales = row(kScale), *const rs = row(kR), *const ds = row(kD);
      Scalar* const bias = static_cast<Scalar*>(p.channel_parameters) + kPBias * size + at;
      Scalar* const slope = static_cast<Scalar*>(p.channel_parameters) + kPSlope * size + at;
      KR_INDEPENDENT
      for (int64_t c = 0; c < p.plan.channels; ++c) {
        const double s1 = first[c], s2 = second[c], inverse = inverses[c], count = counts[c];
        const double per_value = count > 0 ? scales[c] / count : 0;
        beta_sum[c] += s1;
        gamma_sum[c] += s2 * rs[c] * inverse + ds[c] * s1;
        bias[c] = static_cast<Scalar>(s1 * per_value);
        slope[c] = static_cast<Scalar>(s2 * per_value * inverse * inverse);
      }
    }
    Scalar *const gamma = static_cast<Scalar*>(b.gamma), *const beta = static_cast<Scalar*>(b.beta);
    KR_INDEPENDENT
    for (int64_t c = 0; c < p.plan.channels; ++c) {
      gamma[c] = static_cast<Scalar>(gamma_sum[c]);
      beta[c] = static_cast<Scalar>(beta_sum[c]);
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
      const int64_t c = ParameterChannel(plan, i);
      for (int64_t group = 0; group < plan.groups; ++group) {
        for (int64_t w = 0; w < kParameters; ++w) target(group, w)[i] = source(group, w)[c];
      }
    }
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_XLA_CHANNELS_H_
