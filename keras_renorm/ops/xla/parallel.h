// Tasks on XLA's thread pool.

#ifndef KERAS_RENORM_OPS_XLA_PARALLEL_H_
#define KERAS_RENORM_OPS_XLA_PARALLEL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace keras_renorm {

// Runs f(0) .. f(n - 1), each once, in any order, and returns when all have ended.
//
// The caller works too, and waits only for tasks that a thread has begun: where every thread of the
// pool sits in a call like this one, none waits for another, and helpers that come too late find
// nothing to do. Which thread runs a task changes no bit of its result.
inline void ParallelFor(xla::ffi::ThreadPool& pool, int64_t n,
                        const std::function<void(int64_t)>& f) {
  struct Shared {
    const std::function<void(int64_t)>* f;
    int64_t n;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;

    void Work() {
      for (int64_t i; (i = next.fetch_add(1)) < n;) {
        (*f)(i);
        if (done.fetch_add(1) + 1 == n) {
          std::lock_guard<std::mutex> lock(mutex);
          all_done.notify_all();
        }
      }
    }
  };
  const int64_t threads = pool.num_threads();
  if (n <= 1 || threads <= 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  auto shared = std::make_shared<Shared>();
  shared->f = &f;
  shared->n = n;
  for (int64_t i = 1; i < threads && i < n; ++i) {
    pool.Schedule([shared] { shared->Work(); });
  }
  shared->Work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == n; });
}

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_XLA_PARALLEL_H_
