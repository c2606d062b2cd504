// The calls that XLA makes: operands checked, memory laid out, passes run in order.
//
// x and dy are [outer..., channels, inner...], `axis` naming the channels; all of one type. Other
// operands are of the wide type: float32, or float64 for float64. The last operand is optional: a
// mask (pred) or weights (float32), [outer..., channels or 1, inner...].

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"
#include "operand.h"
#include "xla/ffi/api/ffi.h"

namespace keras_renorm {
namespace {

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
