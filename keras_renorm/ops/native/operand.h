// The tensor of a call: how it is checked, cut into ghost batches, and worked on in passes.

#ifndef KERAS_RENORM_OPS_NATIVE_OPERAND_H_
#define KERAS_RENORM_OPS_NATIVE_OPERAND_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "kernels.h"
#include "team.h"
#include "tensor.h"

namespace keras_renorm {

// Values for each thread that works on a call. Both passes over them take some 20 us, and waking a
// thread takes 50 us on a virtual machine.
constexpr int64_t kThreadValues = 65536;

// Threads for a call on so many values, the caller included. 0 counts as 1.
inline int64_t MostThreads(int64_t values) { return values / kThreadValues; }

// From this size on an output is written past the cache. In TensorFlow, whose outputs are always new
// memory, forward + backward of 32x28x28x128 then take 4.7 instead of 8.5 ms of processor time, and
// 12 instead of 15 with convolutions that read both outputs. 32x14x14x256 (6 MB) takes 2.8 instead
// of 3.9, and with convolutions 4.5 instead of 5.3. At 2 MB there is no gain.
constexpr int64_t kStreamBytes = 4 << 20;

// Each call has all attributes, and heeds those that it needs.
struct Attributes {
  int64_t axis;        // of the channels
  int64_t ghost_size;  // rows of the batch with their own moments; 0: all rows together
  bool relu;           // whether y is the positive part
  double epsilon;      // added to variances
  double momentum;     // weight of the old moving statistics in the new ones
  bool by_stddev;      // whether the average is of sigma instead of the variance
};

inline const Kernels* KernelsOf(Element element) {
  switch (element) {
    case Element::kFloat: return &KernelsFor<float>();
    case Element::kDouble: return &KernelsFor<double>();
    case Element::kHalf: return &KernelsFor<Half>();
    case Element::kBFloat16: return &KernelsFor<BFloat16>();
    default: return nullptr;
  }
}

// Ghost batches of one size, the memory for them, and the team that works on them.
struct Work {
  Problem problem;
  const Kernels* kernels;
  Team* team;
  std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};

  Work(const Problem& problem, const Kernels* kernels, Team* team)
      : problem(problem), kernels(kernels), team(team) {}

  // One block of memory for everything per column and per channel.
  Error Allocate() {
    const Plan& plan = problem.plan;
    const int64_t partials = plan.groups * plan.chunks * plan.partials;
    const int64_t totals = plan.groups * plan.channels;
    const int64_t doubles = 4 * partials + 4 * totals +
                            kParameters * (plan.groups * plan.partials + totals);
    double* at = static_cast<double*>(std::malloc((doubles + 1) * sizeof(double)));
    if (at == nullptr) return Error::NoMemory();
    memory.reset(at);
    for (double** to : {&problem.counts, &problem.first, &problem.second, &problem.lows}) {
      *to = at;
      at += partials;
    }
    for (double** to : {&problem.total_count, &problem.total_first, &problem.total_second,
                        &problem.total_low}) {
      *to = at;
      at += totals;
    }
    problem.parameters = at;
    problem.channel_parameters = at + kParameters * plan.groups * plan.partials;
    return {};
  }

  void Pass(void (*task)(const Problem&, int64_t)) const {
    team->Run(problem.plan.tasks(), [&](int64_t i) { task(problem, i); });
  }

  // A pass from the last task to the first: what was read last is still in the cache.
  void PassBack(void (*task)(const Problem&, int64_t)) const {
    const int64_t tasks = problem.plan.tasks();
    team->Run(tasks, [&](int64_t i) { task(problem, tasks - 1 - i); });
  }

  void Merge(void (*merge)(const Problem&, int64_t)) const {
    team->Run(problem.plan.groups, [&](int64_t group) { merge(problem, group); });
  }

  void Moments() const {
    Pass(kernels->moments);
    Merge(kernels->merge_moments);
  }
  void Normalize() const {
    kernels->spread_parameters(problem);
    PassBack(kernels->normalize);
  }
  void GradientSums() const {
    kernels->spread_parameters(problem);
    Pass(kernels->gradient_sums);
    Merge(kernels->merge_sums);
  }
  void InputGradient() const {
    kernels->spread_parameters(problem);
    PassBack(kernels->input_gradient);
  }

  // Per-channel operands of the separate calls: rows of [channels].
  void SetParameters(const Tensor& parameters) const {
    std::memcpy(problem.channel_parameters, parameters.data, parameters.type.bytes());
  }
};

// The checked tensor of a call, and how its rows are cut into ghost batches: `full` ghosts of
// `ghost_outer` outer indices each, then a smaller one where the rows do not divide.
class Operand {
 public:
  const Kernels* kernels = nullptr;
  int64_t channels = 0;

  Error Prepare(const Tensor& x, const Attributes& attributes) {
    const std::vector<int64_t>& dims = x.type.sizes;
    const int64_t rank = static_cast<int64_t>(dims.size()), axis = attributes.axis;
    if (axis < 0 || axis >= rank) {
      return Error::Invalid("axis " + std::to_string(axis) + " of a tensor of rank " +
                            std::to_string(rank));
    }
    element_ = x.type.element;
    kernels = KernelsOf(element_);
    if (kernels == nullptr) return Error::Invalid("the input is not a float type");
    int64_t row = 1;  // outer indices in a row of the batch
    for (int64_t i = 1; i < axis; ++i) row *= dims[i];
    for (int64_t i = axis + 1; i < rank; ++i) inner_ *= dims[i];
    channels = dims[axis];
    const int64_t rows = axis == 0 ? 1 : dims[0], given = attributes.ghost_size;
    if (given < 0 || (given > 0 && axis == 0)) {
      return Error::Invalid("ghost batches of " + std::to_string(given) +
                            " rows, with the channels on axis " + std::to_string(axis));
    }
    const int64_t ghost = std::min(given, std::max<int64_t>(rows, 1));
    outer_ = rows * row;
    full_ = ghost == 0 ? 1 : rows / ghost;
    ghost_outer_ = ghost == 0 ? outer_ : ghost * row;
    ghosts_ = ghost == 0 ? 1 : (rows + ghost - 1) / ghost;
    size_ = outer_ * channels * inner_;
    whole_.x = x.data;
    whole_.relu = attributes.relu;
    whole_.ghosts = ghosts_;
    return {};
  }

  Error SetWeights(const Tensor& weights) {
    const int64_t given = weights.type.count(), positions = outer_ * inner_;
    whole_.per_element = given == size_;
    if (!whole_.per_element && given != positions) {
      return Error::Invalid("a mask of " + std::to_string(given) + " values for " +
                            std::to_string(positions) + " positions of " +
                            std::to_string(channels) + " channels");
    }
    const bool mask = weights.type.element == Element::kBool;
    if (!mask && weights.type.element != Element::kFloat) {
      return Error::Invalid("the weights are neither booleans nor float32");
    }
    whole_.weighing = mask ? Weighing::kMask : Weighing::kWeights;
    whole_.weights = weights.data;
    return {};
  }

  int64_t ghosts() const { return ghosts_; }
  Element wide() const { return element_ == Element::kDouble ? element_ : Element::kFloat; }

  void SetGradient(const Tensor& dy) { whole_.dy = dy.data; }
  void SetOutput(const Tensor& out) { whole_.out = out.data; }

  // Whether the output may overwrite an input: no value is read once it is overwritten.
  bool CanOverwrite() const {
    bool can = true;
    ForEachPlan([&](const Plan& plan, int64_t, int64_t) {
      can &= (plan.columns ? plan.width : plan.inner) % plan.lanes == 0;
      return Error();
    });
    return can;
  }

  // Calls f(work) for the full ghosts, if any, then for the smaller one, if any.
  template <typename F> Error ForEachPart(Pool& pool, const F& f) const {
    if (channels == 0) return {};  // the vectors may lie at the address 0: nothing is copied
    Team team(pool, MostThreads(size_));
    return ForEachPlan([&](const Plan& plan, int64_t first_ghost, int64_t from) {
      Work work(whole_, kernels, &team);
      Problem& p = work.problem;
      p.plan = plan;
      p.first_ghost = first_ghost;
      const int64_t value = from * channels * inner_;  // the first of this part
      p.x = Advance(p.x, value * BytesOf(element_));
      p.dy = Advance(p.dy, value * BytesOf(element_));
      p.out = const_cast<char*>(Advance(p.out, value * BytesOf(element_)));
      const int64_t weight = p.per_element ? value : from * inner_;
      p.weights = Advance(p.weights, weight * (p.weighing == Weighing::kMask ? 1 : sizeof(float)));
      p.stream = Streams(p);
      KR_RETURN_IF_ERROR(work.Allocate());
      f(work);
      return Error();
    });
  }

 private:
  Element element_ = Element::kOther;
  int64_t outer_ = 1, inner_ = 1, full_ = 1, ghost_outer_ = 1, ghosts_ = 1;
  int64_t size_ = 0;
  Problem whole_ = {};

  // Calls f(plan, first ghost, its first outer index) for the full ghosts and for the rest.
  template <typename F> Error ForEachPlan(const F& f) const {
    const auto plan = [&](int64_t outer, int64_t groups) {
      return MakePlan(outer, channels, inner_, groups, kernels->lanes);
    };
    const int64_t cut = full_ * ghost_outer_;
    if (full_ > 0) KR_RETURN_IF_ERROR(f(plan(cut, full_), 0, 0));
    if (ghosts_ > full_) KR_RETURN_IF_ERROR(f(plan(outer_ - cut, 1), full_, cut));
    return {};
  }

  static const char* Advance(const void* base, int64_t bytes) {
    return base == nullptr ? nullptr : static_cast<const char*>(base) + bytes;
  }

  // An output that overwrites an input is in the cache by then.
  bool Streams(const Problem& p) const {
    const auto aligned = [](int64_t bytes) { return bytes % kVectorBytes == 0; };
    const int64_t bytes = BytesOf(element_);
    return p.out != nullptr && p.out != p.dy && p.out != p.x && p.plan.columns &&
           p.plan.size() * bytes >= kStreamBytes &&
           aligned(reinterpret_cast<intptr_t>(p.out)) && aligned(p.plan.width * bytes) &&
           aligned(p.plan.group_size() * bytes);
  }
};

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_OPERAND_H_
