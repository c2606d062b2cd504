// The calls for any program that can call a C function and lends no threads.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
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

// GOMP_parallel of an OpenMP library: runs f(data) in `threads` threads, one of them the caller.
using Parallel = void(void (*f)(void*), void* data, unsigned threads, unsigned flags);

std::atomic<Parallel*> openmp{nullptr};
std::atomic<pid_t> openmp_process{0};

// The function to use, or nullptr in a forked process, where GNU's waits for ever.
Parallel* OpenMp() { return getpid() == openmp_process.load() ? openmp.load() : nullptr; }

// A parallel region of the caller's OpenMP, open for one call. Its threads are mostly awake from an
// operation before, where ours would sleep. Awake, they would be in the way of ours.
class Region : public Pool {
 public:
  explicit Region(int64_t threads) : tasks_(threads - 1) {}

  // Opens it with as many threads as the caller's other regions, whatever this call needs: GNU's
  // OpenMP ends those that a smaller region leaves out, and starts them again for the next. Who is
  // not needed goes home at once.
  void Run(Parallel* parallel, int64_t open, const std::function<void()>& call) {
    call_ = &call;
    parallel(&Enter, this, static_cast<unsigned>(open), 0);
  }

  int64_t threads() const override { return static_cast<int64_t>(tasks_.size()) + 1; }

  void Schedule(std::function<void()> task) override {
    const size_t next = scheduled_.load(std::memory_order_relaxed);
    if (next == tasks_.size()) return;
    tasks_[next] = std::move(task);
    scheduled_.store(next + 1, std::memory_order_release);
  }

 private:
  static void Enter(void* region) { static_cast<Region*>(region)->Enter(); }

  void Enter() {
    if (std::this_thread::get_id() == caller_) {
      (*call_)();
      closed_.store(true, std::memory_order_release);
      return;
    }
    const size_t own = helpers_.fetch_add(1);
    if (own >= tasks_.size()) return;
    for (Waiting waiting; !closed_.load(std::memory_order_acquire); waiting.Once()) {
      if (own >= scheduled_.load(std::memory_order_acquire)) continue;
      tasks_[own]();
      return;
    }
  }

  const std::thread::id caller_ = std::this_thread::get_id();
  const std::function<void()>* call_ = nullptr;
  std::vector<std::function<void()>> tasks_;
  std::atomic<size_t> scheduled_{0}, helpers_{0};
  std::atomic<bool> closed_{false};
};

// Limits that no caller exceeds, but a wrong word does. 64 bits still hold the size of the memory for
// the sums of so many values' ghost batches, at most 4.5 KB a value.
constexpr int64_t kMostRank = 64, kMostValues = int64_t{1} << 48;

Error CheckSizes(const Tensor& tensor) {
  int64_t values = 1;
  bool empty = false;
  for (const int64_t size : tensor.type.sizes) {
    if (size < 0 || size > kMostValues / values) {
      return Error::Invalid("a size of " + std::to_string(size));
    }
    empty |= size == 0;
    values *= std::max<int64_t>(size, 1);
  }
  if (tensor.data == nullptr && !empty) return Error::Invalid("a tensor at the address 0");
  return {};
}

// Reads `count` tensors, each as its address, element, rank and sizes, and moves `words` past them.
Error ReadTensors(const int64_t*& words, int64_t count, std::vector<Tensor>& tensors) {
  tensors.resize(count);
  for (Tensor& tensor : tensors) {
    const int64_t rank = words[2];
    if (rank < 0 || rank > kMostRank) {
      return Error::Invalid("a tensor of rank " + std::to_string(rank));
    }
    tensor.data = reinterpret_cast<void*>(words[0]);
    tensor.type.element = words[1] >= 0 && words[1] < static_cast<int64_t>(Element::kOther)
                              ? static_cast<Element>(words[1])
                              : Element::kOther;
    const int64_t* const sizes = words + 3;
    words = sizes + rank;
    tensor.type.sizes.assign(sizes, words);
    KR_RETURN_IF_ERROR(CheckSizes(tensor));
  }
  return {};
}

}  // namespace
}  // namespace keras_renorm

// Runs this process's later calls in threads of the OpenMP whose GOMP_parallel this is, or with
// nullptr in the library's own.
KR_EXPORT void keras_renorm_use_openmp(void* parallel) {
  using namespace keras_renorm;
  openmp_process.store(getpid());
  openmp.store(reinterpret_cast<Parallel*>(parallel));
}

// Makes the call with a number of CallNumber, on at most `threads` threads. `words` describes its
// operands, then its results, which the caller has allocated. Returns nullptr, or what is wrong: read
// it before this thread's next call.
KR_EXPORT const char* keras_renorm_call(int number, const int64_t* words, int64_t inputs,
                                        int64_t outputs, int64_t threads, int64_t axis,
                                        int64_t ghost_size, bool relu, double epsilon,
                                        double momentum, bool by_stddev) {
  using namespace keras_renorm;
  static thread_local std::string message;
  Error error = WithinMemory([&] {
    if (number < 0 || number >= kCalls) {
      return Error::Invalid("there is no call " + std::to_string(number));
    }
    const CallKind& kind = kCallKinds[number];
    KR_RETURN_IF_ERROR(CheckCounts(kind, inputs, outputs));
    if (words == nullptr) return Error::Invalid("the operands' description is at the address 0");
    FewerWorkers workers(threads);
    Call call = {{}, {}, {axis, ghost_size, relu, epsilon, momentum, by_stddev}, &workers};
    KR_RETURN_IF_ERROR(ReadTensors(words, inputs, call.in));
    KR_RETURN_IF_ERROR(ReadTensors(words, outputs, call.out));
    Parallel* const parallel = OpenMp();
    const int64_t helped = std::min(threads, MostThreads(call.in[kind.x].type.count()));
    if (parallel == nullptr || helped < 2) return RunInto(kind, call);
    Region region(helped);
    call.pool = &region;
    Error found;
    region.Run(parallel, threads, [&] { found = WithinMemory([&] { return RunInto(kind, call); }); });
    return found;
  });
  if (!error.failure()) return nullptr;
  message = std::move(error.message);
  return message.c_str();
}
