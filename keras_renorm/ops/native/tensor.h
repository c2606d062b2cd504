// A call's tensors and errors, the same for every runtime that calls.

#ifndef KERAS_RENORM_OPS_NATIVE_TENSOR_H_
#define KERAS_RENORM_OPS_NATIVE_TENSOR_H_

#include <cstdint>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace keras_renorm {

enum class Element { kFloat, kDouble, kHalf, kBFloat16, kBool, kOther };

inline int64_t BytesOf(Element element) {
  switch (element) {
    case Element::kDouble: return 8;
    case Element::kFloat: return 4;
    case Element::kHalf:
    case Element::kBFloat16: return 2;
    default: return 1;
  }
}

struct Type {
  Element element = Element::kOther;
  std::vector<int64_t> sizes;

  int64_t count() const {
    int64_t product = 1;
    for (const int64_t size : sizes) product *= size;
    return product;
  }
  int64_t bytes() const { return count() * BytesOf(element); }
};

struct Tensor {
  Type type;
  void* data = nullptr;
};

struct Error {
  enum Kind { kNone, kInvalidArgument, kNoMemory };

  Kind kind = kNone;
  std::string message;

  static Error Invalid(const std::string& what) { return {kInvalidArgument, "keras_renorm: " + what}; }
  static Error NoMemory() { return {kNoMemory, "no memory"}; }  // too short to need memory
  bool failure() const { return kind != kNone; }
};

// f(), with lack of memory as an error: no exception may pass through a runtime's frames.
template <typename F> Error WithinMemory(const F& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return Error::NoMemory();
  }
}

#define KR_EXPORT extern "C" __attribute__((visibility("default")))

#define KR_RETURN_IF_ERROR(expression) \
  if (::keras_renorm::Error error = (expression); error.failure()) return error

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_TENSOR_H_
