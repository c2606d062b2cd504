// The calls as any program makes them that can call a C function and lends no threads.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "calls.h"
#include "workers.h"

namespace keras_renorm {
namespace {

// The library's own threads, or fewer.
class FewerWorkers : public Pool {
 public:
  explicit FewerWorkers(int64_t most) : most_(most) {}
  int64_t threads() const override { return std::min(most_, SharedWorkers().threads()); }
  void Schedule(std::function<void()> task) override { SharedWorkers().Schedule(std::move(task)); }

 private:
  const int64_t most_;
};

// Reads `count` tensors, each given as its address, element, rank and sizes; moves `words` past them.
std::vector<Tensor> ReadTensors(const int64_t*& words, int64_t count) {
  std::vector<Tensor> tensors(count);
  for (Tensor& tensor : tensors) {
    tensor.data = reinterpret_cast<void*>(words[0]);
    tensor.type.element = static_cast<Element>(words[1]);
    const int64_t* const sizes = words + 3;
    words = sizes + words[2];
    tensor.type.sizes.assign(sizes, words);
  }
  return tensors;
}

}  // namespace
}  // namespace keras_renorm

// Makes the call of a number in CallNumber, on at most `threads` threads. `words` describes its
// operands, then its results, which the caller has allocated. Returns nullptr, or else what is wrong,
// to be read before this thread's next call.
KR_EXPORT const char* keras_renorm_call(int number, const int64_t* words, int64_t inputs,
                                        int64_t outputs, int64_t threads, int64_t axis,
                                        int64_t ghost_size, bool relu, double epsilon,
                                        double momentum, bool by_stddev) {
  using namespace keras_renorm;
  static thread_local std::string message;
  Error error = WithinMemory([&] {
    FewerWorkers pool(threads);
    Call call = {{}, {}, {axis, ghost_size, relu, epsilon, momentum, by_stddev}, &pool};
    call.in = ReadTensors(words, inputs);
    call.out = ReadTensors(words, outputs);
    return RunInto(kCallKinds[number], call);
  });
  if (!error.failure()) return nullptr;
  message = std::move(error.message);
  return message.c_str();
}
