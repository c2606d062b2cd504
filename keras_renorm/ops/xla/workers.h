// Threads of the library's own, for a runtime that lends none.

#ifndef KERAS_RENORM_OPS_XLA_WORKERS_H_
#define KERAS_RENORM_OPS_XLA_WORKERS_H_

#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "team.h"

namespace keras_renorm {

// Never to be destroyed: its threads would outlive it.
class Workers : public Pool {
 public:
  // `most` counts the one that calls. Where the system gives fewer threads, there are fewer.
  explicit Workers(int64_t most) : process_(getpid()) {
    try {
      for (; threads_ < most; ++threads_) std::thread([this] { Serve(); }).detach();
    } catch (const std::system_error&) {
    }
  }

  // In a forked process there are none but the caller.
  int64_t threads() const override { return getpid() == process_ ? threads_ : 1; }

  void Schedule(std::function<void()> task) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    some_.notify_one();
  }

 private:
  const pid_t process_;
  int64_t threads_ = 1;
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
