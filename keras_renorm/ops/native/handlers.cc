// The calls for XLA, through its foreign function interface, and what the library exports.

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "calls.h"
#include "xla_ffi.h"
#include "xla_pool.h"

namespace keras_renorm {
namespace {

namespace ffi = xla_ffi;

Element ElementOf(int type) {
  switch (type) {
    case ffi::kF32: return Element::kFloat;
    case ffi::kF64: return Element::kDouble;
    case ffi::kF16: return Element::kHalf;
    case ffi::kBF16: return Element::kBFloat16;
    case ffi::kPred: return Element::kBool;
    default: return Element::kOther;
  }
}

Error ReadBuffers(const ffi::Buffers& buffers, std::vector<Tensor>& tensors) {
  for (int64_t i = 0; i < buffers.count; ++i) {
    if (buffers.kinds[i] != ffi::kBufferArgument) return Error::Invalid("an operand is no buffer");
    const auto& buffer = *static_cast<const ffi::Buffer*>(buffers.values[i]);
    tensors.push_back(
        {{ElementOf(buffer.type), {buffer.sizes, buffer.sizes + buffer.rank}}, buffer.data});
  }
  return {};
}

// Reads an attribute of XLA's type `type`, whose values T holds.
template <typename T>
Error ReadAttribute(const ffi::Attributes& attributes, const char* name, int type, T& value) {
  for (int64_t i = 0; i < attributes.count; ++i) {
    const ffi::Bytes& key = *attributes.names[i];
    if (key.size != std::strlen(name) || std::memcmp(key.data, name, key.size) != 0) continue;
    if (attributes.kinds[i] != ffi::kScalarAttribute) break;
    const auto& scalar = *static_cast<const ffi::Scalar*>(attributes.values[i]);
    if (scalar.type != type) break;
    value = *static_cast<const T*>(scalar.value);
    return {};
  }
  return Error::Invalid(std::string("the attribute ") + name + " is missing, or of another type");
}

Error ReadAttributes(const ffi::Attributes& from, Attributes& to) {
  KR_RETURN_IF_ERROR(ReadAttribute(from, "axis", ffi::kS64, to.axis));
  KR_RETURN_IF_ERROR(ReadAttribute(from, "ghost_size", ffi::kS64, to.ghost_size));
  KR_RETURN_IF_ERROR(ReadAttribute(from, "relu", ffi::kPred, to.relu));
  KR_RETURN_IF_ERROR(ReadAttribute(from, "epsilon", ffi::kF64, to.epsilon));
  KR_RETURN_IF_ERROR(ReadAttribute(from, "momentum", ffi::kF64, to.momentum));
  return ReadAttribute(from, "by_stddev", ffi::kPred, to.by_stddev);
}

Error Run(const CallKind& kind, const ffi::CallFrame& frame) {
  XlaPool pool(frame);
  Call call = {{}, {}, {}, &pool};
  KR_RETURN_IF_ERROR(ReadAttributes(frame.attributes, call.attributes));
  KR_RETURN_IF_ERROR(ReadBuffers(frame.arguments, call.in));
  KR_RETURN_IF_ERROR(ReadBuffers(frame.results, call.out));
  return RunInto(kind, call);
}

ffi::Error* XlaError(const ffi::Api* api, const Error& error) {
  if (!error.failure()) return nullptr;
  const bool invalid = error.kind == Error::kInvalidArgument;
  ffi::CreateError create = {sizeof create, nullptr, error.message.c_str(),
                             invalid ? ffi::kInvalidArgument : ffi::kResourceExhausted};
  return api->create_error(&create);
}

ffi::Error* Handle(CallNumber number, ffi::CallFrame* frame) {
  const ffi::Extension* const extension = frame->extensions;
  if (extension != nullptr && extension->type == ffi::kMetadataExtension) {
    ffi::Metadata& metadata = *reinterpret_cast<const ffi::MetadataExtension*>(extension)->metadata;
    metadata.version.major_version = ffi::kMajorVersion;
    metadata.version.minor_version = ffi::kMinorVersion;
    metadata.traits = 0;
    return nullptr;
  }
  return XlaError(frame->api, WithinMemory([&] { return Run(kCallKinds[number], *frame); }));
}

}  // namespace
}  // namespace keras_renorm

namespace ffi = keras_renorm::xla_ffi;

#define KR_HANDLER(name, number)                         \
  KR_EXPORT ffi::Error* name(ffi::CallFrame* frame) {    \
    return keras_renorm::Handle(keras_renorm::number, frame); \
  }

KR_HANDLER(keras_renorm_forward, kForward)
KR_HANDLER(keras_renorm_backward, kBackward)
KR_HANDLER(keras_renorm_moments, kMoments)
KR_HANDLER(keras_renorm_normalize, kNormalize)
KR_HANDLER(keras_renorm_gradient_sums, kGradientSums)
KR_HANDLER(keras_renorm_input_gradient, kInputGradient)

// Change it with a call's operands, results or attributes, or with what is exported. loader.py has the
// same number.
KR_EXPORT int keras_renorm_abi() { return 6; }

// Versions of XLA's interface as 1000 major + minor: the library's own, and that of an XLA, or -1 for
// an XLA too old to tell.
KR_EXPORT int keras_renorm_ffi_version() {
  return 1000 * ffi::kMajorVersion + ffi::kMinorVersion;
}

KR_EXPORT int keras_renorm_ffi_version_of(const ffi::Api* api) {
  const ffi::Version& version = api->version;
  const bool says = version.struct_size == sizeof version;  // else a pointer is in this place
  return says ? 1000 * version.major_version + version.minor_version : -1;
}

KR_EXPORT const char* keras_renorm_instruction_set() { return keras_renorm::InstructionSet(); }

// Registers a handler with the XLA that `api` belongs to. Returns whether XLA took the handler.
KR_EXPORT bool keras_renorm_register(const ffi::Api* api, const char* name, ffi::Handler* handler) {
  ffi::RegisterHandler call = {sizeof call, nullptr, {name, std::strlen(name)}, {"Host", 4},
                               nullptr, nullptr, nullptr, handler, 0};
  return keras_renorm::Succeeds(api, api->register_handler(&call));
}
