// Threads of the library's own, for a runtime that lends none.

#ifndef KERAS_RENORM_OPS_XLA_WORKERS_H_
#define KERAS_RENORM_OPS_XLA_WORKERS_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "team.h"

namespace keras_renorm {

// Never to be destroyed: its threads would outlive it.
class Workers : public Pool {
 public:
  // `threads` count the one that calls.
  explicit Workers(int64_t threads) : threads_(threads) {
    for (int64_t i = 1; i < threads; ++i) std::thread([this] { Serve(); }).detach();
  }

  int64_t threads() const override { return threads_; }

  void Schedule(std::function<void()> task) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    some_.notify_one();
  }

 private:
  const int64_t threads_;
  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::function<void()>> tasks_;

  void Serve() {
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      some_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
};

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_XLA_WORKERS_H_
