// The calls as XLA makes them, through its foreign function interface, and what the library exports.

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "calls.h"
#include "xla/ffi/api/ffi.h"

namespace keras_renorm {
namespace {

namespace ffi = xla::ffi;

Element ElementOf(ffi::DataType type) {
  switch (type) {
    case ffi::F32: return Element::kFloat;
    case ffi::F64: return Element::kDouble;
    case ffi::F16: return Element::kHalf;
    case ffi::BF16: return Element::kBFloat16;
    case ffi::PRED: return Element::kBool;
    default: return Element::kOther;
  }
}

Tensor TensorOf(ffi::AnyBuffer buffer) {
  const auto sizes = buffer.dimensions();
  return {{ElementOf(buffer.element_type()), {sizes.begin(), sizes.end()}}, buffer.untyped_data()};
}

class XlaPool : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool pool) : pool_(pool) {}
  int64_t threads() const override { return pool_.num_threads(); }
  void Schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool pool_;
};

ffi::Error ErrorOf(const Error& error) {
  switch (error.kind) {
    case Error::kNone: return ffi::Error::Success();
    case Error::kInvalidArgument: return ffi::Error::InvalidArgument(error.message);
    default: return ffi::Error(ffi::ErrorCode::kResourceExhausted, error.message);
  }
}

Error Run(const CallKind& kind, ffi::ThreadPool threads, ffi::RemainingArgs in,
          ffi::RemainingRets out, const Attributes& attributes) {
  XlaPool pool(threads);
  Call call = {{}, {}, attributes, &pool};
  for (size_t i = 0; i < in.size(); ++i) {
    const auto buffer = in.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return Error::Invalid(buffer.error().message());
    call.in.push_back(TensorOf(*buffer));
  }
  for (size_t i = 0; i < out.size(); ++i) {
    auto buffer = out.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return Error::Invalid(buffer.error().message());
    call.out.push_back(TensorOf(**buffer));
  }
  return RunInto(kind, call);
}

template <CallNumber kNumber>
ffi::Error Handle(ffi::ThreadPool threads, ffi::RemainingArgs in, ffi::RemainingRets out,
                  int64_t axis, int64_t ghost_size, bool relu, double epsilon, double momentum,
                  bool by_stddev) {
  const Attributes attributes = {axis, ghost_size, relu, epsilon, momentum, by_stddev};
  return ErrorOf(WithinMemory([&] {
    return Run(kCallKinds[kNumber], threads, in, out, attributes);
  }));
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("axis")
      .Attr<int64_t>("ghost_size")
      .Attr<bool>("relu")
      .Attr<double>("epsilon")
      .Attr<double>("momentum")
      .Attr<bool>("by_stddev");
}

}  // namespace
}  // namespace keras_renorm

#define KR_HANDLER(name, number)                                  \
  KR_EXPORT XLA_FFI_Error* name(XLA_FFI_CallFrame* call_frame);   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, keras_renorm::Handle<keras_renorm::number>, \
                                keras_renorm::Binding())

KR_HANDLER(keras_renorm_forward, kForward);
KR_HANDLER(keras_renorm_backward, kBackward);
KR_HANDLER(keras_renorm_moments, kMoments);
KR_HANDLER(keras_renorm_normalize, kNormalize);
KR_HANDLER(keras_renorm_gradient_sums, kGradientSums);
KR_HANDLER(keras_renorm_input_gradient, kInputGradient);

// Changes whenever a call's operands, results or attributes do, or what is exported; loader.py holds
// the same number.
KR_EXPORT int keras_renorm_abi() { return 5; }

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
