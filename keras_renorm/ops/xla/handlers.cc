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
  int64_t axis, groups;
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

// A problem and the memory that it points to.
struct Work {
  Problem problem = {};
  const Kernels* kernels = nullptr;
  std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};

  Error Prepare(const AnyBuffer& x, const Attributes& attributes) {
    const auto dims = x.dimensions();
    const int64_t rank = static_cast<int64_t>(dims.size());
    if (attributes.axis < 0 || attributes.axis >= rank) {
      return Error::InvalidArgument("keras_renorm: axis " + std::to_string(attributes.axis) +
                                    " of a tensor of rank " + std::to_string(rank));
    }
    kernels = KernelsOf(x.element_type());
    if (kernels == nullptr) {
      return Error::InvalidArgument("keras_renorm: the input is not a float type");
    }
    int64_t outer = 1, inner = 1;
    for (int64_t i = 0; i < attributes.axis; ++i) outer *= dims[i];
    for (int64_t i = attributes.axis + 1; i < rank; ++i) inner *= dims[i];
    const int64_t channels = dims[attributes.axis];
    if (attributes.groups < 1 || outer % attributes.groups != 0) {
      return Error::InvalidArgument("keras_renorm: " + std::to_string(outer) +
                                    " rows do not divide into " +
                                    std::to_string(attributes.groups) + " groups");
    }
    problem.plan = MakePlan(outer, channels, inner, attributes.groups, kernels->lanes);
    problem.x = x.untyped_data();
    problem.relu = attributes.relu;
    return Error::Success();
  }

  Error Prepare(const AnyBuffer& x, const Attributes& attributes, ffi::RemainingArgs rest) {
    Error error = Prepare(x, attributes);
    if (error.failure() || rest.size() == 0) return error;
    const auto weights = rest.get<AnyBuffer>(0);
    if (!weights.has_value()) return weights.error();
    const int64_t size = static_cast<int64_t>(weights->element_count());
    const int64_t positions = problem.plan.outer * problem.plan.inner;
    problem.per_element = size == problem.plan.size();
    if (!problem.per_element && size != positions) {
      return Error::InvalidArgument("keras_renorm: a mask of " + std::to_string(size) +
                                    " values for " + std::to_string(positions) +
                                    " positions of " + std::to_string(problem.plan.channels) +
                                    " channels");
    }
    problem.weighing =
        weights->element_type() == ffi::PRED ? Weighing::kMask : Weighing::kWeights;
    problem.weights = weights->untyped_data();
    return Error::Success();
  }

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
    ParallelFor(pool, problem.plan.groups, [&](int64_t group) { merge(problem, group); });
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

  void SetOutput(const AnyBuffer& out) {
    const auto aligned = [](int64_t bytes) { return bytes % kVectorBytes == 0; };
    const int64_t size = static_cast<int64_t>(out.size_bytes()), count = problem.plan.size();
    problem.out = out.untyped_data();
    problem.stream = problem.plan.columns && size >= kStreamBytes &&
                     aligned(reinterpret_cast<intptr_t>(problem.out)) &&
                     aligned(problem.plan.width * (size / count)) &&
                     aligned(problem.plan.group_size() * (size / count));
  }

  // Per-channel operands of the separate calls: `count` rows of [groups, channels].
  void SetParameters(const AnyBuffer& parameters) {
    std::memcpy(problem.channel_parameters, parameters.untyped_data(), parameters.size_bytes());
  }
};

#define KR_RETURN_IF_ERROR(expression) \
  if (Error error = (expression); error.failure()) return error

Error CheckSize(const char* what, const AnyBuffer& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.element_count()) == size) return Error::Success();
  return Error::InvalidArgument(std::string("keras_renorm: ") + what + " has " +
                                std::to_string(buffer.element_count()) + " values, not " +
                                std::to_string(size));
}

Error Forward(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer gamma, AnyBuffer beta,
              AnyBuffer moving_mean, AnyBuffer moving_variance, AnyBuffer r_max, AnyBuffer d_max,
              ffi::RemainingArgs weights, ffi::Result<AnyBuffer> y,
              ffi::Result<AnyBuffer> statistics, int64_t axis, int64_t groups, bool relu,
              double epsilon) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, relu}, weights));
  const int64_t channels = work.problem.plan.channels;
  KR_RETURN_IF_ERROR(CheckSize("gamma", gamma, channels));
  KR_RETURN_IF_ERROR(CheckSize("beta", beta, channels));
  KR_RETURN_IF_ERROR(CheckSize("moving_mean", moving_mean, channels));
  KR_RETURN_IF_ERROR(CheckSize("moving_variance", moving_variance, channels));
  KR_RETURN_IF_ERROR(CheckSize("r_max", r_max, 1));
  KR_RETURN_IF_ERROR(CheckSize("d_max", d_max, 1));
  KR_RETURN_IF_ERROR(CheckSize("statistics", *statistics, kStatistics * groups * channels));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.SetOutput(*y);
  const ForwardChannels per_channel = {gamma.untyped_data(),
                                       beta.untyped_data(),
                                       moving_mean.untyped_data(),
                                       moving_variance.untyped_data(),
                                       r_max.untyped_data(),
                                       d_max.untyped_data(),
                                       epsilon,
                                       statistics->untyped_data()};
  work.Moments(pool);
  work.kernels->finish_forward(work.problem, per_channel);
  work.Normalize(pool);
  return Error::Success();
}

Error Backward(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer statistics,
               ffi::RemainingArgs weights, ffi::Result<AnyBuffer> dx, ffi::Result<AnyBuffer> dgamma,
               ffi::Result<AnyBuffer> dbeta, int64_t axis, int64_t groups, bool relu) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, relu}, weights));
  const int64_t channels = work.problem.plan.channels;
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, work.problem.plan.size()));
  KR_RETURN_IF_ERROR(CheckSize("statistics", statistics, kStatistics * groups * channels));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.problem.dy = dy.untyped_data();
  work.SetOutput(*dx);
  const BackwardChannels per_channel = {statistics.untyped_data(), dgamma->untyped_data(),
                                        dbeta->untyped_data()};
  work.kernels->start_backward(work.problem, per_channel);
  work.GradientSums(pool);
  work.kernels->finish_backward(work.problem, per_channel);
  work.InputGradient(pool);
  return Error::Success();
}

// Packed [3, groups, channels]: count, mean, biased variance, in float64 for merging.
Error Moments(ffi::ThreadPool pool, AnyBuffer x, ffi::RemainingArgs weights,
              ffi::Result<ffi::Buffer<ffi::F64>> moments, int64_t axis, int64_t groups) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, false}, weights));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.Moments(pool);
  const int64_t size = groups * work.problem.plan.channels;
  double* out = moments->typed_data();
  for (int64_t i = 0; i < size; ++i) {
    const double count = work.problem.total_count[i];
    out[i] = count;
    out[size + i] = work.problem.total_first[i];
    out[2 * size + i] = count == 0 ? 0 : work.problem.total_second[i] / count;
  }
  return Error::Success();
}

// parameters: [4, groups, channels] (mean, mean remainder, scale, offset).
Error Normalize(ffi::ThreadPool pool, AnyBuffer x, AnyBuffer parameters, ffi::Result<AnyBuffer> y,
                int64_t axis, int64_t groups, bool relu) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, relu}));
  KR_RETURN_IF_ERROR(
      CheckSize("parameters", parameters, 4 * groups * work.problem.plan.channels));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.SetOutput(*y);
  work.SetParameters(parameters);
  work.Normalize(pool);
  return Error::Success();
}

// sums: [2, groups, channels] (of dy, of dy times the centred value), in float64 for merging.
Error GradientSums(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer parameters,
                   ffi::RemainingArgs weights, ffi::Result<ffi::Buffer<ffi::F64>> sums,
                   int64_t axis, int64_t groups, bool relu) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, relu}, weights));
  const int64_t size = groups * work.problem.plan.channels;
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, work.problem.plan.size()));
  KR_RETURN_IF_ERROR(CheckSize("parameters", parameters, 4 * size));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.problem.dy = dy.untyped_data();
  work.SetParameters(parameters);
  work.GradientSums(pool);
  for (int64_t i = 0; i < size; ++i) {
    sums->typed_data()[i] = work.problem.total_first[i];
    sums->typed_data()[size + i] = work.problem.total_second[i];
  }
  return Error::Success();
}

// parameters: [6, groups, channels] (mean, mean remainder, scale, offset, bias, slope);
// dx = scale dy - weight (bias + centred slope).
Error InputGradient(ffi::ThreadPool pool, AnyBuffer dy, AnyBuffer x, AnyBuffer parameters,
                    ffi::RemainingArgs weights, ffi::Result<AnyBuffer> dx, int64_t axis,
                    int64_t groups, bool relu) {
  Work work;
  KR_RETURN_IF_ERROR(work.Prepare(x, {axis, groups, relu}, weights));
  KR_RETURN_IF_ERROR(CheckSize("dy", dy, work.problem.plan.size()));
  KR_RETURN_IF_ERROR(
      CheckSize("parameters", parameters, 6 * groups * work.problem.plan.channels));
  KR_RETURN_IF_ERROR(work.Allocate());
  work.problem.dy = dy.untyped_data();
  work.SetOutput(*dx);
  work.SetParameters(parameters);
  work.InputGradient(pool);
  return Error::Success();
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
               .Ret<Any>().Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups").Attr<bool>("relu")
               .Attr<double>("epsilon"));
KR_HANDLER(keras_renorm_backward, keras_renorm::Backward,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Any>().Ret<Any>().Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_moments, keras_renorm::Moments,
           Call()
               .Arg<Any>()
               .RemainingArgs()
               .Ret<Doubles>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups"));
KR_HANDLER(keras_renorm_normalize, keras_renorm::Normalize,
           Call()
               .Arg<Any>().Arg<Any>()
               .Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_gradient_sums, keras_renorm::GradientSums,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Doubles>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups").Attr<bool>("relu"));
KR_HANDLER(keras_renorm_input_gradient, keras_renorm::InputGradient,
           Call()
               .Arg<Any>().Arg<Any>().Arg<Any>()
               .RemainingArgs()
               .Ret<Any>()
               .Attr<int64_t>("axis").Attr<int64_t>("groups").Attr<bool>("relu"));

// Changes whenever a handler's operands, results or attributes do; loader.py holds the same number.
KR_EXPORT int keras_renorm_abi() { return 1; }

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
