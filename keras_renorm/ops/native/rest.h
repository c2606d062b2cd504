// The rest of the rows, which fill no row of the plan: one value at a time.

#ifndef KERAS_RENORM_OPS_NATIVE_REST_H_
#define KERAS_RENORM_OPS_NATIVE_REST_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

// Calls f(element, position, channel) for the rows that fill no row of the plan.
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

template <typename T> struct Rest {
  using Scalar = typename Wide<T>::Scalar;

  // Adds the rest of a group to its totals, [channels] each.
  static void AddMoments(const Problem& p, int64_t group, double* n, double* mean, double* low,
                         double* squares) {
    ForEachRest(p.plan, group, [&](int64_t element, int64_t position, int64_t c) {
      const double w = Weight(p, element, position);
      if (!(w > 0)) return;
      const double x = LoadOne(Input<T>(p) + element);
      MergeBlock(n[c], mean[c], low[c], squares[c], x, w, 0., x * 0);
    });
  }

  static void AddGradientSums(const Problem& p, int64_t group, double* first, double* second) {
    ForEachRest(p.plan, group, [&](int64_t element, int64_t position, int64_t c) {
      if (!(Weight(p, element, position) > 0)) return;
      const Scalar centred = Centred(p, group, element, c);
      const Scalar g = GradientOf(p, group, element, c, centred);
      first[c] += g;
      second[c] += static_cast<double>(g) * centred;
    });
  }

  static void Normalize(const Problem& p) {
    for (int64_t group = 0; p.plan.rest > 0 && group < p.plan.groups; ++group) {
      ForEachRest(p.plan, group, [&](int64_t element, int64_t, int64_t c) {
        const Scalar y = Affine(p, group, c, Centred(p, group, element, c));
        StoreOne(Output<T>(p) + element, p.relu && y < 0 ? Scalar(0) : y);
      });
    }
  }

  static void InputGradient(const Problem& p) {
    for (int64_t group = 0; p.plan.rest > 0 && group < p.plan.groups; ++group) {
      ForEachRest(p.plan, group, [&](int64_t element, int64_t position, int64_t c) {
        const Scalar w = static_cast<Scalar>(Weight(p, element, position));
        Scalar dx = 0;
        if (w > 0) {
          const Scalar centred = Centred(p, group, element, c);
          const Scalar g = GradientOf(p, group, element, c, centred);
          const Scalar common =
              Parameter(p, kPBias, group, c) + centred * Parameter(p, kPSlope, group, c);
          dx = Parameter(p, kPScale, group, c) * g - w * common;
        }
        StoreOne(Output<T>(p) + element, dx);
      });
    }
  }

 private:
  static double Weight(const Problem& p, int64_t element, int64_t position) {
    return p.weighing == Weighing::kNone ? 1 : WeightAt(p, element, position);
  }

  static Scalar Parameter(const Problem& p, enum Parameter which, int64_t group, int64_t c) {
    return static_cast<const Scalar*>(
        p.channel_parameters)[(which * p.plan.groups + group) * p.plan.channels + c];
  }

  static Scalar Centred(const Problem& p, int64_t group, int64_t element, int64_t c) {
    return (LoadOne(Input<T>(p) + element) - Parameter(p, kPMean, group, c)) -
           Parameter(p, kPRemainder, group, c);
  }

  static Scalar Affine(const Problem& p, int64_t group, int64_t c, Scalar centred) {
    return centred * Parameter(p, kPScale, group, c) + Parameter(p, kPOffset, group, c);
  }

  static Scalar GradientOf(const Problem& p, int64_t group, int64_t element, int64_t c,
                           Scalar centred) {
    if (p.relu && !(Affine(p, group, c, centred) > 0)) return 0;
    return LoadOne(Gradient<T>(p) + element);
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_REST_H_
