// Drives the whole library through its C interface, for builds with sanitizers; sanitize_test.py compiles
// and runs it. Arguments: seconds, a seed, and whether to fork.
//
// Every call has memory of exactly its size, so that a value read or written beyond it is found. Some
// calls are large enough for stores past the cache and for large pages, and some overwrite their input.
// Callers in several threads share the library's own threads; a forked process calls on without them.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "calls.h"
#include "operand.h"

extern "C" const char* keras_renorm_call(int number, const int64_t* words, int64_t inputs,
                                         int64_t outputs, int64_t threads, int64_t axis,
                                         int64_t ghost_size, bool relu, double epsilon,
                                         double momentum, bool by_stddev);
extern "C" void keras_renorm_set_threads(int64_t threads);

namespace {

using keras_renorm::Element;
using Random = std::mt19937;

int64_t Below(Random& random, int64_t n) { return static_cast<int64_t>(random() % n); }
bool Often(Random& random) { return Below(random, 2) == 0; }

struct Free {
  void operator()(char* data) const { std::free(data); }
};

// Tensors of a call, each in memory of its own, and the words that describe them.
struct Tensors {
  std::vector<std::unique_ptr<char, Free>> memory;
  std::vector<int64_t> words;

  // Aligned as the runtimes do it, which stores past the cache need.
  char* Add(Element element, const std::vector<int64_t>& sizes) {
    const int64_t bytes = keras_renorm::Type{element, sizes}.bytes();
    void* data = nullptr;
    if (posix_memalign(&data, 64, bytes) != 0) std::abort();
    std::memset(data, 0, bytes);
    memory.emplace_back(static_cast<char*>(data));
    Describe(data, element, sizes);
    return memory.back().get();
  }

  void Describe(const void* data, Element element, const std::vector<int64_t>& sizes) {
    words.push_back(reinterpret_cast<int64_t>(data));
    words.push_back(static_cast<int64_t>(element));
    words.push_back(static_cast<int64_t>(sizes.size()));
    words.insert(words.end(), sizes.begin(), sizes.end());
  }

  void Fill(Random& random, Element element, const std::vector<int64_t>& sizes) {
    char* const data = Add(element, sizes);
    const int64_t count = keras_renorm::Type{element, sizes}.count();
    for (int64_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(Below(random, 2001)) / 500.f;
      const double wide = value;
      const uint16_t half = static_cast<uint16_t>(0x3000 + Below(random, 0x1000));
      switch (element) {
        case Element::kFloat: std::memcpy(data + 4 * i, &value, 4); break;
        case Element::kDouble: std::memcpy(data + 8 * i, &wide, 8); break;
        case Element::kBool: data[i] = static_cast<char>(Often(random)); break;
        default: std::memcpy(data + 2 * i, &half, 2);
      }
    }
  }
};

void Call(Random& random) {
  const int number = static_cast<int>(Below(random, keras_renorm::kCalls));
  const keras_renorm::CallKind& kind = keras_renorm::kCallKinds[number];
  const Element element = static_cast<Element>(Below(random, 4));
  const Element wide = element == Element::kDouble ? element : Element::kFloat;
  const int64_t rank = 1 + Below(random, 4);
  const int64_t kind_of_size = Below(random, 300);
  int64_t left = kind_of_size == 0 ? 2000000 : kind_of_size < 10 ? 400000 : 3000;
  std::vector<int64_t> sizes(rank);
  for (int64_t& size : sizes) {
    size = std::min(left, Below(random, 40) == 0 ? 0 : 1 + Below(random, Often(random) ? 9 : 90));
    left = std::max<int64_t>(1, left / std::max<int64_t>(1, size));
  }
  if (left > 4) sizes[Below(random, rank)] *= left;
  const int64_t axis = Below(random, rank), channels = sizes[axis];
  const bool ghosts = kind.ghosts && axis > 0 && Often(random);
  const int64_t rows = std::max<int64_t>(1, sizes[0]), ghost = ghosts ? 1 + Below(random, 9) : 0;
  const int64_t parts = ghosts ? (sizes[0] + std::min(ghost, rows) - 1) / std::min(ghost, rows) : 1;
  const std::vector<int64_t> vector = {channels}, statistics = {keras_renorm::kStatistics, parts,
                                                                channels};
  Tensors t;
  for (int i = 0; i <= kind.x; ++i) t.Fill(random, element, sizes);
  switch (number) {
    case keras_renorm::kForward:
      for (int i = 0; i < 4; ++i) t.Fill(random, wide, vector);
      for (int i = 0; i < 2; ++i) t.Fill(random, wide, {});
      break;
    case keras_renorm::kBackward: t.Fill(random, wide, statistics); break;
    case keras_renorm::kMoments: break;
    case keras_renorm::kInputGradient: t.Fill(random, wide, {6, channels}); break;
    default: t.Fill(random, wide, {4, channels});
  }
  int64_t inputs = kind.inputs;
  if (kind.weighted && Often(random)) {
    std::vector<int64_t> of = sizes;
    if (Often(random)) of[axis] = 1;
    t.Fill(random, Often(random) ? Element::kBool : Element::kFloat, of);
    ++inputs;
  }
  keras_renorm::Operand operand;
  const keras_renorm::Attributes attributes = {axis, ghost, false, 1e-3, 0.9, false};
  const bool prepared = !operand.Prepare({{element, sizes}, nullptr}, attributes).failure();
  if (kind.in_place && prepared && operand.CanOverwrite() && Often(random)) {
    t.Describe(t.memory[0].get(), element, sizes);
  } else if (kind.like_first) {
    t.Add(element, sizes);
  }
  switch (number) {
    case keras_renorm::kForward:
      t.Add(wide, statistics);
      t.Add(wide, vector);
      t.Add(wide, vector);
      t.Add(wide, {});
      break;
    case keras_renorm::kBackward:
      t.Add(wide, vector);
      t.Add(wide, vector);
      break;
    case keras_renorm::kMoments: t.Add(Element::kDouble, {4, channels}); break;
    case keras_renorm::kGradientSums: t.Add(Element::kDouble, {2, channels}); break;
    default: break;
  }
  const char* const problem =
      keras_renorm_call(number, t.words.data(), inputs, kind.outputs, 1 + Below(random, 4), axis,
                        ghost, Often(random), 1e-3, Often(random) ? 0.9 : 0, Often(random));
  if (problem == nullptr) return;
  std::fprintf(stderr, "%s: %s\n", kind.name, problem);
  std::exit(1);
}

}  // namespace

int main(int, char** arguments) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
  const unsigned seed = static_cast<unsigned>(std::atoi(arguments[2]));
  const bool forks = std::atoi(arguments[3]) != 0;
  keras_renorm_set_threads(4);
  std::shared_mutex calling;
  std::vector<std::thread> callers;
  for (unsigned caller = 0; caller < 3; ++caller) {
    callers.emplace_back([=, &calling] {
      Random random(seed + caller);
      while (std::chrono::steady_clock::now() < end) {
        const std::shared_lock<std::shared_mutex> lock(calling);
        Call(random);
      }
    });
  }
  Random random(seed + 3);
  while (forks && std::chrono::steady_clock::now() < end) {
    Call(random);
    // AddressSanitizer's allocator, unlike the C library's, may be left locked in a forked process: so
    // nobody allocates meanwhile.
    std::unique_lock<std::shared_mutex> lock(calling);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 20; ++i) Call(random);
      _exit(0);
    }
    lock.unlock();
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) {
      std::fprintf(stderr, "a forked process ended with %d\n", status);
      std::exit(1);
    }
  }
  for (std::thread& caller : callers) caller.join();
}
