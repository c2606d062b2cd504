// Holds our words for XLA's foreign function interface against XLA's own headers.

#include <cstddef>

#include "xla/ffi/api/c_api.h"
#include "xla_ffi.h"

namespace ffi = keras_renorm::xla_ffi;

#define SAME_PLACE(ours, our_field, theirs, their_field)                                   \
  static_assert(offsetof(ffi::ours, our_field) == offsetof(theirs, their_field) &&         \
                    sizeof(static_cast<ffi::ours*>(nullptr)->our_field) ==                 \
                        sizeof(static_cast<theirs*>(nullptr)->their_field),                \
                #ours "::" #our_field)

// That of structs which only XLA makes may have grown.
#define SAME_SIZE(ours, theirs) static_assert(sizeof(ffi::ours) == sizeof(theirs), #ours)
#define NO_LARGER(ours, theirs) static_assert(sizeof(ffi::ours) <= sizeof(theirs), #ours)

static_assert(ffi::kMajorVersion == XLA_FFI_API_MAJOR && ffi::kMinorVersion <= XLA_FFI_API_MINOR);
static_assert(ffi::kPred == XLA_FFI_DataType_PRED);
static_assert(ffi::kF16 == XLA_FFI_DataType_F16);
static_assert(ffi::kF32 == XLA_FFI_DataType_F32);
static_assert(ffi::kF64 == XLA_FFI_DataType_F64);
static_assert(ffi::kS64 == XLA_FFI_DataType_S64);
static_assert(ffi::kBF16 == XLA_FFI_DataType_BF16);
static_assert(ffi::kInvalidArgument == XLA_FFI_Error_Code_INVALID_ARGUMENT);
static_assert(ffi::kResourceExhausted == XLA_FFI_Error_Code_RESOURCE_EXHAUSTED);
static_assert(ffi::kMetadataExtension == XLA_FFI_Extension_Metadata);
static_assert(ffi::kBufferArgument == XLA_FFI_ArgType_BUFFER);
static_assert(ffi::kBufferArgument == XLA_FFI_RetType_BUFFER);
static_assert(ffi::kScalarAttribute == XLA_FFI_AttrType_SCALAR);

SAME_SIZE(Bytes, XLA_FFI_ByteSpan);
SAME_PLACE(Bytes, data, XLA_FFI_ByteSpan, ptr);
SAME_PLACE(Bytes, size, XLA_FFI_ByteSpan, len);

NO_LARGER(Extension, XLA_FFI_Extension_Base);
SAME_PLACE(Extension, type, XLA_FFI_Extension_Base, type);
SAME_PLACE(Extension, next, XLA_FFI_Extension_Base, next);

SAME_SIZE(Version, XLA_FFI_Api_Version);
SAME_PLACE(Version, struct_size, XLA_FFI_Api_Version, struct_size);
SAME_PLACE(Version, major_version, XLA_FFI_Api_Version, major_version);
SAME_PLACE(Version, minor_version, XLA_FFI_Api_Version, minor_version);

NO_LARGER(Buffer, XLA_FFI_Buffer);
SAME_PLACE(Buffer, type, XLA_FFI_Buffer, dtype);
SAME_PLACE(Buffer, data, XLA_FFI_Buffer, data);
SAME_PLACE(Buffer, rank, XLA_FFI_Buffer, rank);
SAME_PLACE(Buffer, sizes, XLA_FFI_Buffer, dims);

SAME_SIZE(Buffers, XLA_FFI_Args);
SAME_PLACE(Buffers, count, XLA_FFI_Args, size);
SAME_PLACE(Buffers, kinds, XLA_FFI_Args, types);
SAME_PLACE(Buffers, values, XLA_FFI_Args, args);
SAME_SIZE(Buffers, XLA_FFI_Rets);
SAME_PLACE(Buffers, count, XLA_FFI_Rets, size);
SAME_PLACE(Buffers, kinds, XLA_FFI_Rets, types);
SAME_PLACE(Buffers, values, XLA_FFI_Rets, rets);

NO_LARGER(Scalar, XLA_FFI_Scalar);
SAME_PLACE(Scalar, type, XLA_FFI_Scalar, dtype);
SAME_PLACE(Scalar, value, XLA_FFI_Scalar, value);

SAME_SIZE(Attributes, XLA_FFI_Attrs);
SAME_PLACE(Attributes, count, XLA_FFI_Attrs, size);
SAME_PLACE(Attributes, kinds, XLA_FFI_Attrs, types);
SAME_PLACE(Attributes, names, XLA_FFI_Attrs, names);
SAME_PLACE(Attributes, values, XLA_FFI_Attrs, attrs);

NO_LARGER(CallFrame, XLA_FFI_CallFrame);
SAME_PLACE(CallFrame, extensions, XLA_FFI_CallFrame, extension_start);
SAME_PLACE(CallFrame, api, XLA_FFI_CallFrame, api);
SAME_PLACE(CallFrame, context, XLA_FFI_CallFrame, ctx);
SAME_PLACE(CallFrame, stage, XLA_FFI_CallFrame, stage);
SAME_PLACE(CallFrame, arguments, XLA_FFI_CallFrame, args);
SAME_PLACE(CallFrame, results, XLA_FFI_CallFrame, rets);
SAME_PLACE(CallFrame, attributes, XLA_FFI_CallFrame, attrs);

NO_LARGER(Metadata, XLA_FFI_Metadata);
SAME_PLACE(Metadata, version, XLA_FFI_Metadata, api_version);
SAME_PLACE(Metadata, traits, XLA_FFI_Metadata, traits);
SAME_SIZE(MetadataExtension, XLA_FFI_Metadata_Extension);
SAME_PLACE(MetadataExtension, base, XLA_FFI_Metadata_Extension, extension_base);
SAME_PLACE(MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata);

SAME_SIZE(CreateError, XLA_FFI_Error_Create_Args);
SAME_PLACE(CreateError, message, XLA_FFI_Error_Create_Args, message);
SAME_PLACE(CreateError, code, XLA_FFI_Error_Create_Args, errc);
SAME_SIZE(DestroyError, XLA_FFI_Error_Destroy_Args);
SAME_PLACE(DestroyError, error, XLA_FFI_Error_Destroy_Args, error);

SAME_SIZE(RegisterHandler, XLA_FFI_Handler_Register_Args);
SAME_PLACE(RegisterHandler, name, XLA_FFI_Handler_Register_Args, name);
SAME_PLACE(RegisterHandler, platform, XLA_FFI_Handler_Register_Args, platform);
SAME_PLACE(RegisterHandler, instantiate, XLA_FFI_Handler_Register_Args, bundle.instantiate);
SAME_PLACE(RegisterHandler, execute, XLA_FFI_Handler_Register_Args, bundle.execute);
SAME_PLACE(RegisterHandler, traits, XLA_FFI_Handler_Register_Args, traits);

SAME_SIZE(Schedule, XLA_FFI_ThreadPool_Schedule_Args);
SAME_PLACE(Schedule, context, XLA_FFI_ThreadPool_Schedule_Args, ctx);
SAME_PLACE(Schedule, task, XLA_FFI_ThreadPool_Schedule_Args, task);
SAME_PLACE(Schedule, data, XLA_FFI_ThreadPool_Schedule_Args, data);
SAME_SIZE(CountThreads, XLA_FFI_ThreadPool_NumThreads_Args);
SAME_PLACE(CountThreads, context, XLA_FFI_ThreadPool_NumThreads_Args, ctx);
SAME_PLACE(CountThreads, threads, XLA_FFI_ThreadPool_NumThreads_Args, num_threads);

NO_LARGER(Api, XLA_FFI_Api);
SAME_PLACE(Api, version, XLA_FFI_Api, api_version);
SAME_PLACE(Api, create_error, XLA_FFI_Api, XLA_FFI_Error_Create);
SAME_PLACE(Api, destroy_error, XLA_FFI_Api, XLA_FFI_Error_Destroy);
SAME_PLACE(Api, register_handler, XLA_FFI_Api, XLA_FFI_Handler_Register);
SAME_PLACE(Api, schedule, XLA_FFI_Api, XLA_FFI_ThreadPool_Schedule);
SAME_PLACE(Api, count_threads, XLA_FFI_Api, XLA_FFI_ThreadPool_NumThreads);
