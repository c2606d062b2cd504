// The part of XLA's foreign function interface that the library uses: version 0.1 of its C interface
// in our own words. So a build needs a compiler only, and every XLA from 0.1 on takes the library.
// Later versions add to the ends of these structs. xla_ffi_test.cc holds them against XLA's headers.

#ifndef KERAS_RENORM_OPS_NATIVE_XLA_FFI_H_
#define KERAS_RENORM_OPS_NATIVE_XLA_FFI_H_

#include <cstddef>
#include <cstdint>

namespace keras_renorm {
namespace xla_ffi {

constexpr int kMajorVersion = 0, kMinorVersion = 1;

// Numbers of XLA's enumerations.
constexpr int kPred = 1, kS64 = 5, kF16 = 10, kF32 = 11, kF64 = 12, kBF16 = 16;
constexpr int kInvalidArgument = 3, kResourceExhausted = 8;
constexpr int kMetadataExtension = 1, kBufferArgument = 1, kScalarAttribute = 3;

struct Error;    // XLA's own
struct Context;  // likewise
struct Api;
struct CallFrame;
using Handler = Error*(CallFrame*);

struct Bytes {
  const char* data;
  size_t size;
};

// What may follow the size of a struct.
struct Extension {
  size_t struct_size;
  int type;
  Extension* next;
};

struct Version {
  size_t struct_size;
  Extension* extensions;
  int major_version, minor_version;
};

// ---- a call

struct Buffer {
  size_t struct_size;
  Extension* extensions;
  int type;
  void* data;
  int64_t rank;
  int64_t* sizes;
};

struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t count;
  int* kinds;
  void** values;
};

struct Scalar {
  int type;
  void* value;
};

struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t count;
  int* kinds;
  Bytes** names;
  void** values;
};

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  Context* context;
  int stage;
  Buffers arguments, results;
  Attributes attributes;
};

// XLA asks a handler for its version by a call with this extension and no operands.
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

// ---- what XLA does when asked

struct CreateError {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  int code;
};

struct DestroyError {
  size_t struct_size;
  Extension* extensions;
  Error* error;
};

struct RegisterHandler {
  size_t struct_size;
  Extension* extensions;
  Bytes name, platform;
  Handler *instantiate, *prepare, *initialize, *execute;
  uint32_t traits;
};

struct Schedule {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  void (*task)(void*);
  void* data;
};

struct CountThreads {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  int64_t* threads;
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(CreateError*);
  void* get_message;
  void (*destroy_error)(DestroyError*);
  Error* (*register_handler)(RegisterHandler*);
  void* others[7];
  Error* (*schedule)(Schedule*);
  Error* (*count_threads)(CountThreads*);  // see CountsThreads
};

// Not every version 0.1 has it. TensorFlow 2.18 has other functions in this place, and gives the same
// size as JAX 0.5, which is too small.
inline bool CountsThreads(const Api& api) {
  return api.struct_size > sizeof(Api) + 2 * sizeof(void*);
}

}  // namespace xla_ffi
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_XLA_FFI_H_
