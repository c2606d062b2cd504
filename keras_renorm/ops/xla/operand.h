// The tensor of a call: checked, cut into ghost batches, and worked on in passes.

#ifndef KERAS_RENORM_OPS_XLA_OPERAND_H_
#define KERAS_RENORM_OPS_XLA_OPERAND_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace keras_renorm {

namespace ffi = xla::ffi;
using ffi::AnyBuffer;
using ffi::Error;

// Below this many values a second thread costs more than it saves (waking it takes about 10 us).
constexpr int64_t kSerialValues = 32768;

// From this size on an output is written past the cache. In TensorFlow, whose outputs are ever new
// memory, forward + backward of 32x28x28x128 so take 4.7 instead of 8.5 ms of processor time, and
// 12 instead of 15 with convolutions that read both outputs; 32x14x14x256 (6 MB) takes 2.8 instead
// of 3.9, and with convolutions 4.5 instead of 5.3. At 2 MB it gains nothing.
constexpr int64_t kStreamBytes = 4 << 20;

struct Attributes {
  int64_t axis;
  int64_t ghost_size;  // rows of the batch with moments of their own; 0: all rows together
  bool relu;
};

inline const Kernels* KernelsOf(ffi::DataType type) {
  switch (type) {
    case ffi::F32: return &KernelsFor<float>();
    case ffi::F64: return &KernelsFor<double>();
    case ffi::F16: return &KernelsFor<Half>();
    case ffi::BF16: return &KernelsFor<BFloat16>();
    default: return nullptr;
  }
}

// Ghost batches of one size, and the memory that is needed for them.
struct Work {
  Problem problem;
  const Kernels* kernels;
  std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};

  Work(const Problem& problem, const Kernels* kernels) : problem(problem), kernels(kernels) {}

  // One block of memory for everything per column and per channel.
  Error Allocate() {
    const Plan& plan = problem.plan;
    const int64_t partials = plan.groups * plan.chunks * plan.partials;
    const int64_t totals = plan.groups * plan.channels;
    const int64_t doubles = 3 * partials + 3 * totals +
                            kParameters * (plan.groups * plan.partials + totals);
    double* at = static_cast<double*>(std::malloc((doubles + 1) * sizeof(double)));
    if (at == nullptr) return Error(ffi::ErrorCode::kResourceExhausted, "keras_renorm: no memory");
    memory.reset(at);
    for (double** to : {&problem.counts, &problem.first, &problem.second}) {
      *to = at;
      at += partials;
    }
    for (double** to : {&problem.total_count, &problem.total_first, &problem.total_second}) {
      *to = at;
      at += totals;
    }
    problem.parameters = at;
    problem.channel_parameters = at + kParameters * plan.groups * plan.partials;
    return Error::Success();
  }

  void Pass(ffi::ThreadPool& pool, void (*task)(const Problem&, int64_t)) const {
    const int64_t tasks = problem.plan.tasks();
    if (problem.plan.size() < kSerialValues) {
      for (int64_t i = 0; i < tasks; ++i) task(problem, i);
    } else {
      ParallelFor(pool, tasks, [&](int64_t i) { task(problem, i); });
    }
  }

  // The same from the last task to the first: what was read last is still in the cache.
  void PassBack(ffi::ThreadPool& pool, void (*task)(const Problem&, int64_t)) const {
    const int64_t tasks = problem.plan.tasks();
    if (problem.plan.size() < kSerialValues) {
      for (int64_t i = tasks; i-- > 0;) task(problem, i);
    } else {
      ParallelFor(pool, tasks, [&](int64_t i) { task(problem, tasks - 1 - i); });
    }
  }

  void Merge(ffi::ThreadPool& pool, void (*merge)(const Problem&, int64_t)) const {
    const int64_t groups = problem.plan.groups;
    if (problem.plan.size() < kSerialValues) {
      for (int64_t group = 0; group < groups; ++group) merge(problem, group);
    } else {
      ParallelFor(pool, groups, [&](int64_t group) { merge(problem, group); });
    }
  }

  void Moments(ffi::ThreadPool& pool) const {
    Pass(pool, kernels->moments);
    Merge(pool, kernels->merge_moments);
  }
  void Normalize(ffi::ThreadPool& pool) const {
    kernels->spread_parameters(problem);
    PassBack(pool, kernels->normalize);
    kernels->normalize_rest(problem);
  }
  void GradientSums(ffi::ThreadPool& pool) const {
    kernels->spread_parameters(problem);
    Pass(pool, kernels->gradient_sums);
    Merge(pool, kernels->merge_sums);
  }
  void InputGradient(ffi::ThreadPool& pool) const {
    kernels->spread_parameters(problem);
    PassBack(pool, kernels->input_gradient);
    kernels->input_gradient_rest(problem);
  }

  // Per-channel operands of the separate calls: rows of [channels].
  void SetParameters(const AnyBuffer& parameters) const {
    std::memcpy(problem.channel_parameters, parameters.untyped_data(), parameters.size_bytes());
  }
};

#define KR_RETURN_IF_ERROR(expression) \
  if (Error error = (expression); error.failure()) return error

// The tensor of a call, checked, and how its rows are cut into ghost batches: `full` of
// `ghost_outer` outer indices each, then one of `rest_outer` where the rows do not divide.
class Operand {
 public:
  const Kernels* kernels = nullptr;
  int64_t channels = 0;

  Error Prepare(const AnyBuffer& x, const Attributes& attributes) {
    const auto dims = x.dimensions();
    const int64_t rank = static_cast<int64_t>(dims.size()), axis = attributes.axis;
    if (axis < 0 || axis >= rank) {
      return Error::InvalidArgument("keras_renorm: axis " + std::to_string(axis) +
                                    " of a tensor of rank " + std::to_string(rank));
    }
    kernels = KernelsOf(x.element_type());
    if (kernels == nullptr) {
      return Error::InvalidArgument("keras_renorm: the input is not a float type");
    }
    int64_t row = 1;  // outer indices in a row of the batch
    for (int64_t i = 1; i < axis; ++i) row *= dims[i];
    for (int64_t i = axis + 1; i < rank; ++i) inner_ *= dims[i];
    channels = dims[axis];
    const int64_t rows = axis == 0 ? 1 : dims[0], ghost = attributes.ghost_size;
    if (ghost < 0 || (ghost > 0 && axis == 0)) {
      return Error::InvalidArgument("keras_renorm: ghost batches of " + std::to_string(ghost) +
                                    " rows, with the channels on axis " + std::to_string(axis));
    }
    outer_ = rows * row;
    full_ = ghost == 0 ? 1 : rows / ghost;
    ghost_outer_ = ghost == 0 ? outer_ : ghost * row;
    ghosts_ = ghost == 0 ? 1 : (rows + ghost - 1) / ghost;
    size_ = outer_ * channels * inner_;
    value_bytes_ = size_ == 0 ? 0 : static_cast<int64_t>(x.size_bytes()) / size_;
    whole_.x = x.untyped_data();
    whole_.relu = attributes.relu;
    whole_.ghosts = ghosts_;
    return Error::Success();
  }

  Error Prepare(const AnyBuffer& x, const Attributes& attributes, ffi::RemainingArgs rest) {
    Error error = Prepare(x, attributes);
    if (error.failure() || rest.size() == 0) return error;
    const auto weights = rest.get<AnyBuffer>(0);
    if (!weights.has_value()) return weights.error();
    const int64_t given = static_cast<int64_t>(weights->element_count());
    const int64_t positions = outer_ * inner_;
    whole_.per_element = given == size_;
    if (!whole_.per_element && given != positions) {
      return Error::InvalidArgument("keras_renorm: a mask of " + std::to_string(given) +
                                    " values for " + std::to_string(positions) +
                                    " positions of " + std::to_string(channels) + " channels");
    }
    whole_.weighing = weights->element_type() == ffi::PRED ? Weighing::kMask : Weighing::kWeights;
    whole_.weights = weights->untyped_data();
    return Error::Success();
  }

  int64_t ghosts() const { return ghosts_; }
  int64_t size() const { return size_; }

  void SetGradient(const AnyBuffer& dy) { whole_.dy = dy.untyped_data(); }
  void SetOutput(const AnyBuffer& out) { whole_.out = out.untyped_data(); }

  // Calls f(work) for the full ghosts, then for the smaller one, if there are such.
  template <typename F> Error ForEachPart(const F& f) const {
    const int64_t cut = full_ * ghost_outer_;
    if (full_ > 0) KR_RETURN_IF_ERROR(Part(0, full_, 0, cut, f));
    if (ghosts_ > full_) KR_RETURN_IF_ERROR(Part(full_, 1, cut, outer_ - cut, f));
    return Error::Success();
  }

 private:
  int64_t outer_ = 1, inner_ = 1, full_ = 1, ghost_outer_ = 1, ghosts_ = 1;
  int64_t size_ = 0, value_bytes_ = 0;
  Problem whole_ = {};

  template <typename F>
  Error Part(int64_t first_ghost, int64_t groups, int64_t from, int64_t outer, const F& f) const {
    Work work(whole_, kernels);
    Problem& p = work.problem;
    p.plan = MakePlan(outer, channels, inner_, groups, kernels->lanes);
    p.first_ghost = first_ghost;
    const int64_t value = from * channels * inner_;  // the first of this part
    p.x = Advance(p.x, value * value_bytes_);
    p.dy = Advance(p.dy, value * value_bytes_);
    p.out = const_cast<char*>(Advance(p.out, value * value_bytes_));
    const int64_t weight = p.per_element ? value : from * inner_;
    p.weights = Advance(p.weights, weight * (p.weighing == Weighing::kMask ? 1 : sizeof(float)));
    p.stream = Streams(p);
    KR_RETURN_IF_ERROR(work.Allocate());
    f(work);
    return Error::Success();
  }

  static const char* Advance(const void* base, int64_t bytes) {
    return base == nullptr ? nullptr : static_cast<const char*>(base) + bytes;
  }

  bool Streams(const Problem& p) const {
    const auto aligned = [](int64_t bytes) { return bytes % kVectorBytes == 0; };
    return p.out != nullptr && p.plan.columns && p.plan.size() * value_bytes_ >= kStreamBytes &&
           aligned(reinterpret_cast<intptr_t>(p.out)) && aligned(p.plan.width * value_bytes_) &&
           aligned(p.plan.group_size() * value_bytes_);
  }
};

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_XLA_OPERAND_H_
