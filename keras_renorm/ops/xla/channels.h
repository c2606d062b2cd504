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
    for (int64_t c = 0; c < plan.channels; ++c) n[c] = mean[c] = squares[c] = 0;
    const int64_t start = group * plan.chunks * plan.partials, size = plan.partials;
    double *lane_n = p.counts + start, *lane_mean = p.first + start;
    double* lane_squares = p.second + start;
    for (int64_t k = 1; k < plan.chunks; ++k) {
      const double *n_k = lane_n + k * size, *mean_k = lane_mean + k * size;
      const double* squares_k = lane_squares + k * size;
      for (int64_t i = 0; i < size; ++i) {
        const double total = lane_n[i] + n_k[i];
        const double share = total > 0 ? n_k[i] / total : 0;
        const double delta = n_k[i] > 0 ? mean_k[i] - lane_mean[i] : 0;
        lane_squares[i] += squares_k[i] + delta * delta * lane_n[i] * share;
        lane_mean[i] += delta * share;
        lane_n[i] = total;
      }
    }
    for (int64_t i = 0; plan.chunks > 0 && i < size; ++i) {
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
    for (int64_t c = 0; c < plan.channels; ++c) first[c] = second[c] = 0;
    const int64_t start = group * plan.chunks * plan.partials, size = plan.partials;
    double *lane_first = p.first + start, *lane_second = p.second + start;
    for (int64_t k = 1; k < plan.chunks; ++k) {
      for (int64_t i = 0; i < size; ++i) lane_first[i] += lane_first[k * size + i];
      for (int64_t i = 0; i < size; ++i) lane_second[i] += lane_second[k * size + i];
    }
    for (int64_t i = 0; plan.chunks > 0 && i < size; ++i) {
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
    const int64_t channels = p.plan.channels;
    // Limits below their least values count as these: so plain batch norm.
    const double r_max = Largest(Value(f.r_max, 0), 1), d_max = Largest(Value(f.d_max, 0), 0);
    Scalar* const out = static_cast<Scalar*>(f.statistics);
    const auto set = [&](enum Statistic which, int64_t i, double value) {
      out[Packed(p, which) + i] = static_cast<Scalar>(value);
    };
    Scalar* const to = static_cast<Scalar*>(p.channel_parameters);
    for (int64_t group = 0; group < p.plan.groups; ++group) {
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t i = group * channels + c;
        const double n = p.total_count[i];
        const double moving_mean = Value(f.moving_mean, c);
        const double moving_variance = Value(f.moving_variance, c);
        const double mean = p.total_first[i];
        const double variance = n == 0 ? 0 : p.total_second[i] / n;
        const double sigma_b = __builtin_sqrt(variance + f.epsilon);
        const double sigma = __builtin_sqrt(moving_variance + f.epsilon);
        const double gamma = Value(f.gamma, c);
        const Scalar r_out = static_cast<Scalar>(Clip(sigma_b / sigma, 1 / r_max, r_max));
        const Scalar d_out =
            static_cast<Scalar>(Clip((mean - moving_mean) / sigma, -d_max, d_max));
        const Scalar mean_out = static_cast<Scalar>(mean);
        set(kMean, i, mean_out);
        set(kMeanRemainder, i, mean - mean_out);
        set(kVariance, i, variance);
        set(kCount, i, n);
        set(kR, i, r_out);
        set(kD, i, d_out);
        set(kScale, i, gamma * r_out / sigma_b);
        set(kOffset, i, gamma * d_out + Value(f.beta, c));
        set(kInverse, i, 1 / sigma_b);
      }
    }
    CopyParameters(p, out, to);
  }

  static double Largest(double v, double least) { return v < least ? least : v; }

  static double Clip(double v, double low, double high) {
    v = v < low ? low : v;  // a NaN stays one, and shows in the output
    return v > high ? high : v;
  }

  // What normalising and both gradient passes read of the packed statistics.
  static void CopyParameters(const Problem& p, const Scalar* statistics, Scalar* to) {
    const int64_t size = p.plan.groups * p.plan.channels;
    const auto copy = [&](enum Parameter parameter, enum Statistic which) {
      const Scalar* const from = statistics + Packed(p, which);
      for (int64_t i = 0; i < size; ++i) to[parameter * size + i] = from[i];
    };
    copy(kPMean, kMean);
    copy(kPRemainder, kMeanRemainder);
    copy(kPScale, kScale);
    copy(kPOffset, kOffset);
  }

  // The moving statistics after a step; ops/moving.py has the formulas, and why. Of a channel the
  // ghosts that have positions and finite moments count, each by its number of positions.
  static void UpdateMoving(const MovingChannels& m) {
    const Scalar* const in = static_cast<const Scalar*>(m.statistics);
    const int64_t channels = m.channels, size = m.ghosts * channels;
    const double alpha = 1 - m.momentum;
    bool updated = false;
    for (int64_t c = 0; c < channels; ++c) {
      const double mu = Value(m.moving_mean, c), old = Value(m.moving_variance, c);
      const double sigma = __builtin_sqrt(old + m.epsilon);
      double count = 0, mean = 0, variance = 0;  // sums of differences from the moving ones
      for (int64_t i = c; i < size; i += channels) {
        const double n = in[kCount * size + i], var = in[kVariance * size + i];
        const double mean_b = in[kMean * size + i];
        if (!(n > 0 && mean_b - mean_b == 0 && var - var == 0)) continue;  // not finite
        const double sigma_b = __builtin_sqrt(var + m.epsilon);
        count += n;
        mean += n * (mean_b - mu + in[kMeanRemainder * size + i]);
        variance += n * (m.by_stddev ? (var - old) / (sigma_b + sigma) : var - old);
      }
      updated |= count > 0;
      const double share = count > 0 ? alpha / count : 0;
      const double step = share * variance;
      const double next = old + (m.by_stddev ? step * (2 * sigma + step) : step);
      static_cast<Scalar*>(m.mean)[c] = static_cast<Scalar>(mu + share * mean);
      static_cast<Scalar*>(m.variance)[c] =
          static_cast<Scalar>(m.by_stddev && next < 0 && count > 0 ? 0 : next);
    }
    *static_cast<Scalar*>(m.updated) = updated ? 1 : 0;
  }

  static void StartBackward(const Problem& p, const BackwardChannels& b) {
    CopyParameters(p, static_cast<const Scalar*>(b.statistics),
                   static_cast<Scalar*>(p.channel_parameters));
  }

  // dgamma = S2 r / sigma_B + d S1, dbeta = S1, summed over the groups; and the two terms of
  // dx = scale dy - bias - centred slope, bias = scale S1 / m, slope = scale S2 / (m sigma_B^2).
  static void FinishBackward(const Problem& p, const BackwardChannels& b) {
    const int64_t channels = p.plan.channels, size = p.plan.groups * channels;
    const Scalar* const in = static_cast<const Scalar*>(b.statistics);
    const auto get = [&](enum Statistic which, int64_t i) -> double {
      return in[Packed(p, which) + i];
    };
    Scalar* const to = static_cast<Scalar*>(p.channel_parameters);
    for (int64_t c = 0; c < channels; ++c) {
      double &gamma = b.gamma_sum[c], &beta = b.beta_sum[c];
      for (int64_t group = 0; group < p.plan.groups; ++group) {
        const int64_t i = group * channels + c;
        const double s1 = p.total_first[i], s2 = p.total_second[i];
        const double inverse = get(kInverse, i), count = get(kCount, i);
        const double per_value = count > 0 ? get(kScale, i) / count : 0;
        beta += s1;
        gamma += s2 * get(kR, i) * inverse + get(kD, i) * s1;
        to[kPBias * size + i] = static_cast<Scalar>(s1 * per_value);
        to[kPSlope * size + i] = static_cast<Scalar>(s2 * per_value * inverse * inverse);
      }
      static_cast<Scalar*>(b.gamma)[c] = static_cast<Scalar>(gamma);
      static_cast<Scalar*>(b.beta)[c] = static_cast<Scalar>(beta);
    }
  }

  static void SpreadParameters(const Problem& p) {
    const Plan& plan = p.plan;
    const Scalar* const from = static_cast<const Scalar*>(p.channel_parameters);
    Scalar* const to = static_cast<Scalar*>(p.parameters);
    for (int64_t i = 0; i < plan.partials; ++i) {
      const int64_t c = ParameterChannel(plan, i);
      for (int64_t group = 0; group < plan.groups; ++group) {
        for (int64_t which = 0; which < kParameters; ++which) {
          to[(group * kParameters + which) * plan.partials + i] =
              from[(which * plan.groups + group) * plan.channels + c];
        }
      }
    }
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_XLA_CHANNELS_H_
