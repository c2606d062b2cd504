// All kernels of one instruction set. The file is compiled once per set, and KR_ISA names the set's
// namespace. Use no template or inline function of a shared namespace here, unless it is always_inline:
// the linker might keep a copy with instructions that another processor lacks.

#ifndef KR_ISA
#error "compile with -DKR_ISA=avx512, avx2 or baseline"
#endif

#include "columns.h"
#include "formulas.h"
#include "lanes.h"
#include "padded.h"
#include "runs.h"

namespace keras_renorm {
namespace KR_ISA {
namespace {

template <typename T> void Moments(const Problem& p, int64_t task) {
  const bool weighted = p.weighing != Weighing::kNone;
  if (p.plan.columns) {
    const Columns<T> work(p, task);
    weighted ? work.template Moments<true>() : work.template Moments<false>();
  } else {
    const Runs<T> work(p, task);
    weighted ? work.template Moments<true>() : work.template Moments<false>();
  }
}

template <typename T> void Normalize(const Problem& p, int64_t task) {
  if (p.plan.columns) {
    const Columns<T> work(p, task);
    p.relu ? work.template Normalize<true>() : work.template Normalize<false>();
  } else {
    const Runs<T> work(p, task);
    p.relu ? work.template Normalize<true>() : work.template Normalize<false>();
  }
}

template <bool kWeighted, typename Work> void GradientSums(const Problem& p, const Work& work) {
  p.relu ? work.template GradientSums<kWeighted, true>()
         : work.template GradientSums<kWeighted, false>();
}

template <typename T> void GradientSums(const Problem& p, int64_t task) {
  const bool weighted = p.weighing != Weighing::kNone;
  if (p.plan.columns) {
    const Columns<T> work(p, task);
    weighted ? GradientSums<true>(p, work) : GradientSums<false>(p, work);
  } else {
    const Runs<T> work(p, task);
    weighted ? GradientSums<true>(p, work) : GradientSums<false>(p, work);
  }
}

template <bool kWeighted, typename Work> void InputGradient(const Problem& p, const Work& work) {
  p.relu ? work.template InputGradient<kWeighted, true>()
         : work.template InputGradient<kWeighted, false>();
}

template <typename T> void InputGradient(const Problem& p, int64_t task) {
  const bool weighted = p.weighing != Weighing::kNone;
  if (p.plan.columns) {
    const Columns<T> work(p, task);
    weighted ? InputGradient<true>(p, work) : InputGradient<false>(p, work);
  } else {
    const Runs<T> work(p, task);
    weighted ? InputGradient<true>(p, work) : InputGradient<false>(p, work);
  }
}

// A pass over a task's part of the tensor, or over the rest of a group's rows.
template <typename T, void (*kPass)(const Problem&, int64_t), bool kWrites>
void WithRest(const Problem& p, int64_t task) {
  const Plan& plan = p.plan;
  if (plan.rest == 0) return kPass(p, task);
  const Part part = PartOf(plan, task, plan.vectors);
  if (part.begin < plan.rows) return kPass(p, task);
  PaddedRow<T> row(p, part);
  kPass(row.problem, task % plan.tiles);
  if (kWrites) row.WriteTo(p.out);
}

template <typename T> constexpr Kernels Table() {
  return {LanesOf<typename Wide<T>::Vector>::value,
          WithRest<T, Moments<T>, false>,
          WithRest<T, Normalize<T>, true>,
          WithRest<T, GradientSums<T>, false>,
          WithRest<T, InputGradient<T>, true>,
          Lanes<T>::MergeMoments,
          Lanes<T>::MergeSums,
          Formulas<T>::FinishForward,
          Formulas<T>::UpdateMoving,
          Formulas<T>::StartBackward,
          Formulas<T>::FinishBackward,
          Lanes<T>::SpreadParameters};
}

}  // namespace

extern const Kernels kFloat, kDouble, kHalf, kBFloat16;
const Kernels kFloat = Table<float>();
const Kernels kDouble = Table<double>();
const Kernels kHalf = Table<Half>();
const Kernels kBFloat16 = Table<BFloat16>();

}  // namespace KR_ISA
}  // namespace keras_renorm
