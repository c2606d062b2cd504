// The library's own threads, for a runtime that lends none.

#ifndef KERAS_RENORM_OPS_NATIVE_WORKERS_H_
#define KERAS_RENORM_OPS_NATIVE_WORKERS_H_

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "portable.h"
#include "team.h"

namespace keras_renorm {

// Never destroy it: its threads would outlive it.
class Workers : public Pool {
 public:
  // `most` counts the caller. The system may give fewer threads.
  explicit Workers(int64_t most) : process_(getpid()) {
    try {
      for (; threads_ < most; ++threads_) std::thread([this] { Serve(); }).detach();
    } catch (const std::exception&) {  // no more threads, or no memory for one
    }
  }

  // A forked process has the caller only.
  int64_t threads() const override { return getpid() == process_ ? threads_ : 1; }

  void Schedule(std::function<void()> task) override {
    bool wake;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
      queued_.store(tasks_.size(), std::memory_order_relaxed);
      wake = tasks_.size() > awake_;
    }
    if (wake) some_.notify_one();
  }

 private:
  // How long a thread without a task stays awake, and how many threads do. Where one layer trains by
  // itself, backward follows forward, and the next step the last one, within some 25 us: forward +
  // backward of 1 MB and more then take 5 to 10 % less. Whole networks are no faster and no slower.
  // The price is this much processor time per thread and call, so the threads are few. They yield,
  // so that a thread with work gets the core.
  static constexpr std::chrono::microseconds kAwake{50};
  static constexpr size_t kMostAwake = 4;

  const pid_t process_;
  int64_t threads_ = 1;
  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::function<void()>> tasks_;
  size_t awake_ = 0;  // threads that have ended a task and not yet looked for the next one
  // The size of tasks_ for readers without the mutex: a hint, for which any order will do.
  alignas(64) std::atomic<size_t> queued_{0};

  void Serve() {
    for (bool awake = false;;) {
      if (awake) StayAwake();
      std::unique_lock<std::mutex> lock(mutex_);
      if (awake) --awake_;
      some_.wait(lock, [this] { return !tasks_.empty(); });
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      queued_.store(tasks_.size(), std::memory_order_relaxed);
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
      awake = awake_ < kMostAwake;
      if (awake) ++awake_;
    }
  }

  // Returns when there is a task, or after a while.
  void StayAwake() const {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    while (queued_.load(std::memory_order_relaxed) == 0 &&
           std::chrono::steady_clock::now() < until) {
      sched_yield();
    }
  }
};

// The workers of the process, started by the first call: a thread for each processor, or as many as
// keras_renorm_set_threads said before.
Workers& SharedWorkers();

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_WORKERS_H_
