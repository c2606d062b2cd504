// The calls as ops of TensorFlow: a graph or an eager program runs them without XLA in between.
//
// The ops are registered through TensorFlow's C interface, whose functions are looked up in the
// library that the process has loaded. Nothing is linked, and no header of TensorFlow's is needed. XLA
// cannot compile such an op. What is traced for XLA (jit_compile=True) calls the handlers instead, and
// a function that was traced outside XLA cannot be compiled later.

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "calls.h"
#include "portable.h"
#include "workers.h"

namespace keras_renorm {
namespace {

// ---- The part of TensorFlow's C interface in use (tensorflow/c/{kernels,ops,tf_*}.h)

struct TF_Status;
struct TF_Tensor;
struct TF_KernelBuilder;
struct TF_OpDefinitionBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
struct TF_ShapeInferenceContext;
struct TF_ShapeHandle;

using Create = void*(TF_OpKernelConstruction*);
using Compute = void(void*, TF_OpKernelContext*);
using Delete = void(void*);
using Shapes = void(TF_ShapeInferenceContext*, TF_Status*);

#define KR_TF_FUNCTIONS(F)                                                                        \
  F(NewStatus, TF_Status*())                                                                      \
  F(DeleteStatus, void(TF_Status*))                                                               \
  F(SetStatus, void(TF_Status*, int code, const char* message))                                   \
  F(GetCode, int(const TF_Status*))                                                               \
  F(NewOpDefinitionBuilder, TF_OpDefinitionBuilder*(const char* name))                            \
  F(OpDefinitionBuilderAddInput, void(TF_OpDefinitionBuilder*, const char*))                      \
  F(OpDefinitionBuilderAddOutput, void(TF_OpDefinitionBuilder*, const char*))                     \
  F(OpDefinitionBuilderAddAttr, void(TF_OpDefinitionBuilder*, const char*))                       \
  F(OpDefinitionBuilderSetShapeInferenceFunction, void(TF_OpDefinitionBuilder*, Shapes*))         \
  F(RegisterOpDefinition, void(TF_OpDefinitionBuilder*, TF_Status*))                              \
  F(NewShapeHandle, TF_ShapeHandle*())                                                            \
  F(DeleteShapeHandle, void(TF_ShapeHandle*))                                                     \
  F(ShapeInferenceContextGetInput, void(TF_ShapeInferenceContext*, int, TF_ShapeHandle*,          \
                                        TF_Status*))                                              \
  F(ShapeInferenceContextSetOutput, void(TF_ShapeInferenceContext*, int, TF_ShapeHandle*,         \
                                         TF_Status*))                                             \
  F(ShapeInferenceContextSetUnknownShape, void(TF_ShapeInferenceContext*, TF_Status*))            \
  F(NewKernelBuilder, TF_KernelBuilder*(const char* op, const char* device, Create*, Compute*,    \
                                        Delete*))                                                 \
  F(RegisterKernelBuilder, void(const char* name, TF_KernelBuilder*, TF_Status*))                 \
  F(OpKernelConstruction_GetAttrInt64, void(TF_OpKernelConstruction*, const char*, int64_t*,      \
                                            TF_Status*))                                          \
  F(OpKernelConstruction_GetAttrBool, void(TF_OpKernelConstruction*, const char*, unsigned char*, \
                                           TF_Status*))                                           \
  F(OpKernelConstruction_Failure, void(TF_OpKernelConstruction*, TF_Status*))                     \
  F(OpKernelContext_Failure, void(TF_OpKernelContext*, TF_Status*))                               \
  F(NumInputs, int(TF_OpKernelContext*))                                                          \
  F(NumOutputs, int(TF_OpKernelContext*))                                                         \
  F(GetInput, void(TF_OpKernelContext*, int, TF_Tensor**, TF_Status*))                            \
  F(ExpectedOutputDataType, int(TF_OpKernelContext*, int))                                        \
  F(AllocateOutput, TF_Tensor*(TF_OpKernelContext*, int, int type, const int64_t* sizes, int,     \
                               size_t bytes, TF_Status*))                                         \
  F(ForwardInputOrAllocateOutput, TF_Tensor*(TF_OpKernelContext*, const int* candidates, int,     \
                                             int output, const int64_t* sizes, int, int* taken,   \
                                             TF_Status*))                                         \
  F(DeleteTensor, void(TF_Tensor*))                                                               \
  F(TensorType, int(const TF_Tensor*))                                                            \
  F(NumDims, int(const TF_Tensor*))                                                               \
  F(Dim, int64_t(const TF_Tensor*, int))                                                          \
  F(TensorData, void*(const TF_Tensor*))

struct TensorFlow {
#define KR_MEMBER(name, ...) std::add_pointer_t<__VA_ARGS__> name = nullptr;
  KR_TF_FUNCTIONS(KR_MEMBER)
#undef KR_MEMBER

  // Finds all functions in a loaded library. Returns the name of a missing one, or nullptr.
  const char* Find(void* library) {
#define KR_FIND(name, ...)                                                                   \
  name = reinterpret_cast<std::add_pointer_t<__VA_ARGS__>>(dlsym(library, "TF_" #name)); \
  if (name == nullptr) return "TF_" #name;
    KR_TF_FUNCTIONS(KR_FIND)
#undef KR_FIND
    return nullptr;
  }
};

TensorFlow tf;

// The numbers are part of TensorFlow's serialised formats, and do not change.
enum DataType { kFloat = 1, kDouble = 2, kBool = 10, kBFloat16 = 14, kHalf = 19 };
enum Code { kOk = 0, kInvalidArgument = 3, kResourceExhausted = 8 };

Element ElementOf(int type) {
  switch (type) {
    case kFloat: return Element::kFloat;
    case kDouble: return Element::kDouble;
    case kHalf: return Element::kHalf;
    case kBFloat16: return Element::kBFloat16;
    case kBool: return Element::kBool;
    default: return Element::kOther;
  }
}

// A status, deleted at the end of its scope.
class Status {
 public:
  Status() : status_(tf.NewStatus()) {}
  ~Status() { tf.DeleteStatus(status_); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  operator TF_Status*() const { return status_; }
  bool ok() const { return tf.GetCode(status_) == kOk; }

 private:
  TF_Status* const status_;
};

// A tensor's address and type. It gives the reference up at once, as the context holds another: with
// two references an output could not take an input's place.
Tensor TensorOf(TF_Tensor* tensor) {
  Tensor result = {{ElementOf(tf.TensorType(tensor)), {}}, tf.TensorData(tensor)};
  const int rank = tf.NumDims(tensor);
  for (int i = 0; i < rank; ++i) result.type.sizes.push_back(tf.Dim(tensor, i));
  tf.DeleteTensor(tensor);
  return result;
}

// ---- a kernel

struct Kernel {
  const CallKind& kind;
  Attributes attributes;
};

// Reads an attribute that holds a double's bits. A float attribute would keep only 24 of them, and
// reading text depends on the locale.
double Number(TF_OpKernelConstruction* construction, const char* name, TF_Status* status) {
  int64_t bits = 0;
  tf.OpKernelConstruction_GetAttrInt64(construction, name, &bits, status);
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <int kNumber> void* CreateKernel(TF_OpKernelConstruction* construction) {
  Status status;
  Attributes a = {};
  unsigned char relu = 0, by_stddev = 0;
  tf.OpKernelConstruction_GetAttrInt64(construction, "axis", &a.axis, status);
  if (status.ok()) {
    tf.OpKernelConstruction_GetAttrInt64(construction, "ghost_size", &a.ghost_size, status);
  }
  if (status.ok()) tf.OpKernelConstruction_GetAttrBool(construction, "relu", &relu, status);
  if (status.ok()) {
    tf.OpKernelConstruction_GetAttrBool(construction, "by_stddev", &by_stddev, status);
  }
  if (status.ok()) a.epsilon = Number(construction, "epsilon", status);
  if (status.ok()) a.momentum = Number(construction, "momentum", status);
  if (!status.ok()) tf.OpKernelConstruction_Failure(construction, status);
  a.relu = relu != 0;
  a.by_stddev = by_stddev != 0;
  return new Kernel{kCallKinds[kNumber], a};
}

void DeleteKernel(void* kernel) { delete static_cast<Kernel*>(kernel); }

// Whether an output may overwrite the first input, which costs no new memory and no write past the
// cache. TensorFlow allows it if nothing else will read that input.
bool TakesFirst(const CallKind& kind, const Operand& operand, int output) {
  return output == 0 && kind.in_place && operand.CanOverwrite();
}

TF_Tensor* Allocate(TF_OpKernelContext* context, int output, const Type& type, bool take_first,
                    TF_Status* status) {
  const int rank = static_cast<int>(type.sizes.size());
  if (take_first) {
    const int candidate = 0;
    int taken = -1;
    return tf.ForwardInputOrAllocateOutput(context, &candidate, 1, output, type.sizes.data(), rank,
                                           &taken, status);
  }
  return tf.AllocateOutput(context, output, tf.ExpectedOutputDataType(context, output),
                           type.sizes.data(), rank, type.bytes(), status);
}

Error RunKernel(const Kernel& kernel, TF_OpKernelContext* context, const Status& status) {
  Call call = {{}, {}, kernel.attributes, &SharedWorkers()};
  const int inputs = tf.NumInputs(context), outputs = tf.NumOutputs(context);
  KR_RETURN_IF_ERROR(CheckCounts(kernel.kind, inputs, outputs));
  for (int i = 0; i < inputs; ++i) {
    TF_Tensor* tensor = nullptr;
    tf.GetInput(context, i, &tensor, status);
    if (!status.ok()) return {};
    call.in.push_back(TensorOf(tensor));
  }
  Operand operand;
  std::vector<Type> types;
  KR_RETURN_IF_ERROR(Prepare(kernel.kind, call, operand, types));
  for (int i = 0; i < outputs; ++i) {
    if (ElementOf(tf.ExpectedOutputDataType(context, i)) != types[i].element) {
      return Error::Invalid("result " + std::to_string(i) + " is of another type");
    }
    TF_Tensor* const tensor =
        Allocate(context, i, types[i], TakesFirst(kernel.kind, operand, i), status);
    if (!status.ok()) return {};
    call.out.push_back(TensorOf(tensor));
  }
  return kernel.kind.run(call, operand);
}

void ComputeKernel(void* kernel, TF_OpKernelContext* context) {
  Status status;
  const Error error = WithinMemory([&] {
    return RunKernel(*static_cast<const Kernel*>(kernel), context, status);
  });
  if (error.failure()) {
    const bool invalid = error.kind == Error::kInvalidArgument;
    tf.SetStatus(status, invalid ? kInvalidArgument : kResourceExhausted, error.message.c_str());
  }
  if (!status.ok()) tf.OpKernelContext_Failure(context, status);
}

// ---- registration

// Infers what the operands alone tell. The callers in Python know the rest.
template <int kNumber> void InferShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  tf.ShapeInferenceContextSetUnknownShape(context, status);
  if (!kCallKinds[kNumber].like_first || tf.GetCode(status) != kOk) return;
  TF_ShapeHandle* const shape = tf.NewShapeHandle();
  tf.ShapeInferenceContextGetInput(context, 0, shape, status);
  if (tf.GetCode(status) == kOk) tf.ShapeInferenceContextSetOutput(context, 0, shape, status);
  tf.DeleteShapeHandle(shape);
}

// "input_gradient" to "KerasRenormInputGradient".
std::string OpName(const std::string& call) {
  std::string name = "KerasRenorm";
  bool upper = true;
  for (const char c : call) {
    if (c != '_') name += upper ? static_cast<char>(c - 'a' + 'A') : c;
    upper = c == '_';
  }
  return name;
}

template <int kNumber> bool Register() {
  Status status;
  const std::string name = OpName(kCallKinds[kNumber].name);
  TF_OpDefinitionBuilder* const op = tf.NewOpDefinitionBuilder(name.c_str());
  for (const char* const types : {"Tin", "Tout"}) {
    const std::string attribute = std::string(types) + ": list({half,bfloat16,float,double,bool})";
    tf.OpDefinitionBuilderAddAttr(op, attribute.c_str());
  }
  for (const char* const attribute : {"axis: int", "ghost_size: int", "relu: bool",
                                      "epsilon: int", "momentum: int", "by_stddev: bool"}) {
    tf.OpDefinitionBuilderAddAttr(op, attribute);
  }
  tf.OpDefinitionBuilderAddInput(op, "operands: Tin");
  tf.OpDefinitionBuilderAddOutput(op, "results: Tout");
  tf.OpDefinitionBuilderSetShapeInferenceFunction(op, InferShapes<kNumber>);
  tf.RegisterOpDefinition(op, status);
  if (!status.ok()) return false;
  tf.RegisterKernelBuilder(name.c_str(),
                           tf.NewKernelBuilder(name.c_str(), "CPU", CreateKernel<kNumber>,
                                               ComputeKernel, DeleteKernel),
                           status);
  return status.ok();
}

}  // namespace
}  // namespace keras_renorm

// Registers all calls as ops of the TensorFlow in the library at `path`, which the process has
// loaded. Returns what is missing there, or nullptr. Call it once: TensorFlow ends a process that
// registers an op twice.
KR_EXPORT const char* keras_renorm_register_ops(const char* path) {
  using namespace keras_renorm;
  void* const library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return path;
  if (const char* missing = tf.Find(library)) return missing;
  const bool taken = Register<kForward>() && Register<kBackward>() && Register<kMoments>() &&
                     Register<kNormalize>() && Register<kGradientSums>() &&
                     Register<kInputGradient>();
  return taken ? nullptr : "a registry that takes new ops";
}
