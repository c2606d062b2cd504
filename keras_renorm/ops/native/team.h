// The threads that work on one call.

#ifndef KERAS_RENORM_OPS_NATIVE_TEAM_H_
#define KERAS_RENORM_OPS_NATIVE_TEAM_H_

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <thread>

namespace keras_renorm {

// Threads of a runtime that can help a call.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual int64_t threads() const = 0;  // with the caller
  virtual void Schedule(std::function<void()> task) = 0;
};

// Waits a little, first by spinning, as most waits take some microseconds.
class Waiting {
 public:
  void Once() {
    if (++times_ > kSpins) {
      sched_yield();
      return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

 private:
  static constexpr int kSpins = 200;
  int times_ = 0;
};

// The caller, and helpers that stay with it from one pass to the next: waking a thread takes 50 us
// on a virtual machine, as long as a pass over 1 MB. Nobody waits for a helper that comes late, or
// never. Where all threads of a pool are callers themselves, each works alone. A task gives the same
// bits on any thread.
class Team {
 public:
  // A team of at most `most` threads with the caller, or fewer where memory runs out.
  Team(Pool& pool, int64_t most) : shared_(std::make_shared<Shared>()) {
    const int64_t threads = pool.threads() < most ? pool.threads() : most;
    try {
      for (int64_t i = 1; i < threads; ++i) pool.Schedule([shared = shared_] { shared->Help(); });
    } catch (const std::bad_alloc&) {
    }
  }
  ~Team() { shared_->ticket.store(kClosed, std::memory_order_release); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Runs f(0) .. f(n - 1), n < kIdle, each once, in any order, and returns when all have ended.
  void Run(int64_t n, const std::function<void(int64_t)>& f) {
    Shared& s = *shared_;
    s.f.store(&f, std::memory_order_relaxed);
    s.n.store(n, std::memory_order_release);
    s.done.store(0, std::memory_order_relaxed);
    const uint64_t pass = s.ticket.load(std::memory_order_relaxed) + 1;  // from kIdle on: task 0
    s.ticket.store(pass, std::memory_order_release);
    while (s.Take()) {
    }
    for (Waiting waiting; s.done.load(std::memory_order_acquire) < n;) waiting.Once();
    s.ticket.store(pass | kIdle, std::memory_order_release);
  }

 private:
  static constexpr uint64_t kIdle = 0xffffffff;  // the task that no pass has: none can be taken
  static constexpr uint64_t kClosed = ~uint64_t{0};

  struct Shared {
    // The upper half is the number of the pass, the lower half its next task. A thread that raises
    // the ticket from i to i + 1 has task i of that pass, and has read the f and n of that pass: Run
    // changes these only between passes, when the ticket is kIdle and every taken task has ended. A
    // thread that reads the n of a later pass, released after the ticket became kIdle, cannot raise
    // the ticket.
    std::atomic<uint64_t> ticket{kIdle};
    std::atomic<int64_t> n{0}, done{0};
    std::atomic<const std::function<void(int64_t)>*> f{nullptr};
    const std::thread::id caller = std::this_thread::get_id();

    // Runs one task. Returns whether there was one.
    bool Take() {
      uint64_t now = ticket.load(std::memory_order_acquire);
      while (now != kClosed) {
        const std::function<void(int64_t)>* const task = f.load(std::memory_order_relaxed);
        const int64_t i = static_cast<int64_t>(now & kIdle);
        if (i >= n.load(std::memory_order_acquire)) return false;
        if (ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire)) {
          (*task)(i);
          done.fetch_add(1, std::memory_order_acq_rel);
          return true;
        }
      }
      return false;
    }

    void Help() {
      // A pool whose queue is full runs the helper at once, in the caller, which would wait for
      // itself to close the team.
      if (std::this_thread::get_id() == caller) return;
      for (Waiting waiting; ticket.load(std::memory_order_acquire) != kClosed;) {
        if (Take()) {
          waiting = Waiting();
        } else {
          waiting.Once();
        }
      }
    }
  };

  const std::shared_ptr<Shared> shared_;
};

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_TEAM_H_
