// The rest of a group's rows, which fill no row of the plan: filled up to one, and masked.

#ifndef KERAS_RENORM_OPS_NATIVE_PADDED_H_
#define KERAS_RENORM_OPS_NATIVE_PADDED_H_

#include "common.h"

namespace keras_renorm {
namespace KR_ISA {

// The kernels see a tensor of one row. Its partial sums are those of the group's last chunk.
template <typename T> class PaddedRow {
 public:
  Problem problem;

  PaddedRow(const Problem& p, const Part& part) : problem(p) {
    const Plan& plan = p.plan;
    const int64_t row = plan.channels * plan.inner, partials = plan.partials;
    const int64_t outer = (part.group + 1) * (plan.outer / plan.groups) - plan.rest;
    from_ = part.tile_begin * plan.lanes;
    size_ = Min(part.tile_end * plan.lanes, plan.rest * row) - from_;
    element_ = outer * row + from_;
    Plan& own = problem.plan;
    own.outer = plan.fold;
    own.groups = own.rows = own.chunks = own.chunk_rows = 1;
    own.rest = 0;
    own.vectors = (plan.rest * row + plan.lanes - 1) / plan.lanes;
    const int64_t sums = (part.group * plan.chunks + part.chunk) * partials;
    const int64_t bytes = (part.tile_end * plan.lanes - from_) * sizeof(double);
    const auto own_sums = [&](double*& all) {
      all += sums;
      __builtin_memset(all + from_, 0, bytes);  // most of the row's lanes may hold no value
    };
    own_sums(problem.counts);
    own_sums(problem.first);
    own_sums(problem.second);
    own_sums(problem.lows);
    problem.parameters = static_cast<typename Wide<T>::Scalar*>(p.parameters) +
                         part.group * kParameters * partials;
    problem.stream = false;
    problem.x = Filled(x_, p.x);
    if (p.dy != nullptr) problem.dy = Filled(dy_, p.dy);
    problem.out = out_;
    FillWeights(p, outer);
  }

  // Copies the task's results to where they belong.
  void WriteTo(void* out) const {
    if (size_ > 0) __builtin_memcpy(static_cast<T*>(out) + element_, out_ + from_, size_ * sizeof(T));
  }

 private:
  // The task's values only: another task may be overwriting the others.
  int64_t from_, size_, element_;
  T x_[kMostFolded], dy_[kMostFolded], out_[kMostFolded];
  alignas(float) uint8_t weights_[kMostFolded * sizeof(float)];

  const T* Filled(T* row, const void* values) const {
    __builtin_memset(row, 0, problem.plan.vectors * problem.plan.lanes * sizeof(T));
    if (size_ > 0) {
      __builtin_memcpy(row + from_, static_cast<const T*>(values) + element_, size_ * sizeof(T));
    }
    return row;
  }

  void FillWeights(const Problem& p, int64_t outer) {
    const Plan& plan = p.plan;
    const bool each_element = p.per_element || p.weighing == Weighing::kNone;
    const int64_t each = plan.inner * (each_element ? plan.channels : 1);
    const int64_t bytes = p.weighing == Weighing::kWeights ? sizeof(float) : sizeof(uint8_t);
    __builtin_memset(weights_, 0, plan.width * bytes);
    problem.weights = weights_;
    if (p.weighing == Weighing::kNone) {
      problem.weighing = Weighing::kMask;
      problem.per_element = true;
      __builtin_memset(weights_, 1, plan.rest * each);
    } else {
      __builtin_memcpy(weights_, static_cast<const uint8_t*>(p.weights) + outer * each * bytes,
                       plan.rest * each * bytes);
    }
  }
};

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_PADDED_H_
