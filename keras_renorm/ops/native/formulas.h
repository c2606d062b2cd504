// The formulas of Batch Renormalization (arXiv 1702.03275, Algorithm 1 and section 3), per channel and
// in double: from the totals of one pass to the results of a call and the parameters of the next pass.

#ifndef KERAS_RENORM_OPS_NATIVE_FORMULAS_H_
#define KERAS_RENORM_OPS_NATIVE_FORMULAS_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

template <typename T> struct Formulas {
  using Scalar = typename Wide<T>::Scalar;

  // A larger variance counts as NaN, as in ops/maths/moments.py, because sums of squares overflow.
  static constexpr double kLargestVariance = sizeof(Scalar) == sizeof(double) ? 1e300 : 1e30;

  static double Value(const void* base, int64_t i) { return static_cast<const Scalar*>(base)[i]; }

  // Where a row of the packed statistics begins for a problem's groups.
  static int64_t Packed(const Problem& p, enum Statistic which) {
    return (which * p.ghosts + p.first_ghost) * p.plan.channels;
  }

  // Moments to r, d, scale and offset. A channel without a single valid value has moments 0.
  static void FinishForward(const Problem& p, const ForwardChannels& f) {
    // Limits below their least values count as these, which give plain batch norm.
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
      const double* const lows = p.total_low + at;
      Scalar* out[kStatistics];
      for (int which = 0; which < kStatistics; ++which) {
        out[which] = static_cast<Scalar*>(f.statistics) +
                     Packed(p, static_cast<enum Statistic>(which)) + at;
      }
      KR_INDEPENDENT
      for (int64_t c = 0; c < p.plan.channels; ++c) {
        const double n = counts[c], mean = means[c], low = lows[c];
        const double found = n > 0 ? squares[c] / n : 0;
        const double variance = found <= kLargestVariance ? found : __builtin_nan("");
        const double sigma_b = __builtin_sqrt(variance + epsilon);
        const double sigma = __builtin_sqrt(moving_variances[c] + epsilon);
        const Scalar r = static_cast<Scalar>(Clip(sigma_b / sigma, r_min, r_max));
        const double drift = (mean - moving_means[c]) + low;
        const Scalar d = static_cast<Scalar>(Clip(drift / sigma, -d_max, d_max));
        const Scalar mean_out = static_cast<Scalar>(mean);
        out[kMean][c] = mean_out;
        out[kMeanRemainder][c] = static_cast<Scalar>((mean - mean_out) + low);
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

  // A NaN stays NaN, whether the value's or the limit's, and shows in the output.
  static double Clip(double v, double low, double high) {
    v = v < low ? low : v;
    v = v > high ? high : v;
    return high == high ? v : high;
  }

  // Copies what normalising and both gradient passes read of the packed statistics.
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

  // The moving statistics after a step. ops/maths/moving.py has the formulas and the reasons. In each
  // channel, ghosts with positions and finite moments count, by their numbers of positions.
  static void UpdateMoving(const MovingChannels& m) {
    m.ghosts == 1 ? UpdateMovingOf<true>(m) : UpdateMovingOf<false>(m);
  }

  // With kOneGhost the inner loop vanishes, and the outer one runs in vectors.
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
    // With a momentum of 0 the old statistics have no weight. 0 in their place leaves no rounding
    // error.
    const bool weightless = m.momentum == 0;
    int64_t updated = 0;
    KR_INDEPENDENT
    for (int64_t c = 0; c < channels; ++c) {
      const double mu = weightless ? 0 : moving_mean[c], old = weightless ? 0 : moving_variance[c];
      const double sigma = __builtin_sqrt(old + epsilon);
      double count = 0, mean = 0, variance = 0;  // sums of differences from the moving statistics
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
      const double least = (by_stddev & (next < 0)) ? 0 : next;
      new_mean[c] = count > 0 ? static_cast<Scalar>(mu + share * mean) : moving_mean[c];
      new_variance[c] = count > 0 ? static_cast<Scalar>(least) : moving_variance[c];
    }
    *static_cast<Scalar*>(m.updated) = updated > 0 ? 1 : 0;
  }

  static void StartBackward(const Problem& p, const BackwardChannels& b) {
    CopyParameters(p, static_cast<const Scalar*>(b.statistics));
  }

  // dgamma = S2 r / sigma_B + d S1 and dbeta = S1, summed over the groups, and bias = scale S1 / m and
  // slope = scale S2 / (m sigma_B^2) of dx = scale dy - bias - centred slope.
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
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_FORMULAS_H_
