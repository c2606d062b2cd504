// The calls that XLA makes: operands checked, memory laid out, passes run in order.
//
// x and dy are [outer..., channels, inner...], `axis` naming the channels; all of one type. Other
// operands are of the wide type: float32, or float64 for float64. The last operand is optional: a
// mask (pred) or weights (float32), [outer..., channels or 1, inner...].

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace keras_renorm {
namespace {

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

const Kernels* KernelsOf(ffi::DataType type) {
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

Error CheckSize(const char* what, const AnyBuffer& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.element_count()) == size) return Error::Success();
  return Error::InvalidArgument(std::string("keras_renorm: ") + what + " has " +
                                std::to_string(buffer.element_count()) + " values, not " +
                                std::to_string(size));
}

Error Forward(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer gamma, AnyBuffer beta,
              AnyBuffer moving_mean, AnyBuffer moving_variance, AnyBuffer r_max, AnyBuffer d_max,
              ffi::RemainingArgs weights, ffi::Result<AnyBuffer> y,
              ffi::Result<AnyBuffer> statistics, ffi::Result<AnyBuffer> new_mean,
              ffi::Result<AnyBuffer> new_variance, ffi::Result<AnyBuffer> updated, int64_t axis,
              int64_t ghost_size, bool relu, double epsilon, double momentum, bool by_stddev) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, ghost_size, relu}, weights));
  const int64_t channels = operand.channels, packed = kStatistics * operand.ghosts() * channels;
  KR_RETURN_IF_ERROR(CheckSize("gamma", gamma, channels));
  KR_RETURN_IF_ERROR(CheckSize("beta", beta, channels));
  KR_RETURN_IF_ERROR(CheckSize("moving_mean", moving_mean, channels));
  KR_RETURN_IF_ERROR(CheckSize("moving_variance", moving_variance, channels));
  KR_RETURN_IF_ERROR(CheckSize("r_max", r_max, 1));
  KR_RETURN_IF_ERROR(CheckSize("d_max", d_max, 1));
  KR_RETURN_IF_ERROR(CheckSize("statistics", *statistics, packed));
  KR_RETURN_IF_ERROR(CheckSize("the new moving mean", *new_mean, channels));
  KR_RETURN_IF_ERROR(CheckSize("the new moving variance", *new_variance, channels));
  KR_RETURN_IF_ERROR(CheckSize("updated", *updated, 1));
  operand.SetOutput(*y);
  const ForwardChannels per_channel = {gamma.untyped_data(),
                                       beta.untyped_data(),
                                       moving_mean.untyped_data(),
                                       moving_variance.untyped_data(),
                                       r_max.untyped_data(),
                                       d_max.untyped_data(),
                                       epsilon,
                                       statistics->untyped_data()};
  KR_RETURN_IF_ERROR(operand.ForEachPart([&](const Work& work) {
    work.Moments(pool);
    work.kernels->finish_forward(work.problem, per_channel);
    work.Normalize(pool);
  }));
  operand.kernels->update_moving({statistics->untyped_data(), moving_mean.untyped_data(),
                                  moving_variance.untyped_data(), operand.ghosts(), channels,
                                  epsilon, momentum, by_stddev, new_mean->untyped_data(),
                                  new_variance->untyped_data(), updated->untyped_data()});
  return Error::Success();
}

Error Backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer statistics,
               ffi::RemainingArgs weights, ffi::Result<AnyBuffer> dx, ffi::Result<AnyBuffer> dgamma,
               ffi::Result<AnyBuffer> dbeta, int64_t axis, int64_t ghost_size, bool relu) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, ghost_size, relu}, weights));
  const int64_t channels = operand.channels, packed = kStatistics * operand.ghosts() * channels;
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, operand.size()));
  KR_RETURN_IF_ERROR(CheckSize("statistics", statistics, packed));
  operand.SetGradient(dy);
  operand.SetOutput(*dx);
  std::memset(dgamma->untyped_data(), 0, dgamma->size_bytes());  // where there is no ghost
  std::memset(dbeta->untyped_data(), 0, dbeta->size_bytes());
  std::vector<double> sums(2 * channels);
  const BackwardChannels per_channel = {statistics.untyped_data(), sums.data(),
                                        sums.data() + channels, dgamma->untyped_data(),
                                        dbeta->untyped_data()};
  return operand.ForEachPart([&](const Work& work) {
    work.kernels->start_backward(work.problem, per_channel);
    work.GradientSums(pool);
    work.kernels->finish_backward(work.problem, per_channel);
    work.InputGradient(pool);
  });
}

// Packed [3, channels]: count, mean, biased variance, in float64 for merging.
Error Moments(ffi::ThreadPool pool, AnyBuffer x, ffi::RemainingArgs weights,
              ffi::Result<ffi::Buffer<ffi::F64>> moments, int64_t axis) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, 0, false}, weights));
  const int64_t channels = operand.channels;
  double* out = moments->typed_data();
  return operand.ForEachPart([&](const Work& work) {
    work.Moments(pool);
    for (int64_t c = 0; c < channels; ++c) {
      const double count = work.problem.total_count[c];
      out[c] = count;
      out[channels + c] = work.problem.total_first[c];
      out[2 * channels + c] = count == 0 ? 0 : work.problem.total_second[c] / count;
    }
  });
}

// parameters: [4, channels] (mean, mean remainder, scale, offset).
Error Normalize(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer parameters, ffi::Result<AnyBuffer> y,
                int64_t axis, bool relu) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, 0, relu}));
  KR_RETURN_IF_ERROR(CheckSize("parameters", parameters, 4 * operand.channels));
  operand.SetOutput(*y);
  return operand.ForEachPart([&](const Work& work) {
    work.SetParameters(parameters);
    work.Normalize(pool);
  });
}

// sums: [2, channels] (of dy, of dy times the centred value), in float64 for merging.
Error GradientSums(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer parameters,
                   ffi::RemainingArgs weights, ffi::Result<ffi::Buffer<ffi::F64>> sums,
                   int64_t axis, bool relu) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, 0, relu}, weights));
  const int64_t channels = operand.channels;
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, operand.size()));
  KR_RETURN_IF_ERROR(CheckSize("parameters", parameters, 4 * channels));
  operand.SetGradient(dy);
  return operand.ForEachPart([&](const Work& work) {
    work.SetParameters(parameters);
    work.GradientSums(pool);
    for (int64_t c = 0; c < channels; ++c) {
      sums->typed_data()[c] = work.problem.total_first[c];
      sums->typed_data()[channels + c] = work.problem.total_second[c];
    }
  });
}

// parameters: [6, channels] (mean, mean remainder, scale, offset, bias, slope);
// dx = scale dy - weight (bias + centred slope).
Error InputGradient(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer parameters,
                    ffi::RemainingArgs weights, ffi::Result<AnyBuffer> dx, int64_t axis,
                    bool relu) {
  Operand operand;
  KR_RETURN_IF_ERROR(operand.Prepare(x, {axis, 0, relu}, weights));
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, operand.size()));
  KR_RETURN_IF_ERROR(CheckSize("parameters", parameters, 6 * operand.channels));
  operand.SetGradient(dy);
  operand.SetOutput(*dx);
  return operand.ForEachPart([&](const Work& work) {
    work.SetParameters(parameters);
    work.InputGradient(pool);
  });
}

#undef KR_RETURN_IF_ERROR

}  // namespace

}  // namespace keras_renorm

// ---- what the library exports

#define KR_EXPORT extern "C" __attribute__((visibility("default")))
#define KR_HANDLER(name, function, ...)                       \
  KR_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* call_frame); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, __VA_ARGS__)

namespace {

using Any = xla::ffi::AnyBuffer;
using Doubles = xla::ffi::Buffer<xla::ffi::F64>;

// What all bindings begin with.
auto Call() { return xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>(); }

}  // namespace

KR_HANDLER(keras_renorm_forward, keras_renorm::Forward,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Any>().Ret<Any>().Ret<Any>().Ret<Any>().Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("ghost_size").Attr<bool>("relu")
               .Attr<double>("epsilon").Attr<double>("momentum").Attr<bool>("by_stddev"));
KR_HANDLER(keras_renorm_backward, keras_renorm::Backward,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Any>().Ret<Any>().Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("ghost_size").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_moments, keras_renorm::Moments,
           Call()
               .Arg<Any>()
               .RemainingArgs()
               .Ret<Doubles>()
               .Attr<int64_t>("axis"));
KR_HANDLER(keras_renorm_normalize, keras_renorm::Normalize,
           Call()
               .Arg<Any>().Arg<Any>()
               .Ret<Any>()
               .Attr<int64_t>("axis").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_gradient_sums, keras_renorm::GradientSums,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Doubles>()
               .Attr<int64_t>("axis").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_input_gradient, keras_renorm::InputGradient,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Any>()
               .Attr<int64_t>("axis").Attr<bool>("relu"));

// Changes whenever a handler's operands, results or attributes do; loader.py holds the same number.
KR_EXPORT int keras_renorm_abi() { return 2; }

// Version of the XLA FFI headers that this library was compiled with, 1000 major + minor.
KR_EXPORT int keras_renorm_ffi_version() {
  return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR;
}

KR_EXPORT const char* keras_renorm_instruction_set() { return keras_renorm::InstructionSet(); }

// Registers a handler with the XLA that `api` belongs to. Returns whether it took it.
KR_EXPORT bool keras_renorm_register(const XLA_FFI_Api* api, const char* name,
                                     XLA_FFI_Handler* handler) {
  XLA_FFI_Error* error = xla::ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler);
  if (error == nullptr) return true;
  XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&args);
  return false;
}
