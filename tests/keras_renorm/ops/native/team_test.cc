// Checks of team.h and workers.h that only C++ can make; team_test.py compiles and runs them.

#include "team.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <thread>
#include <vector>

#include "workers.h"

namespace {

using keras_renorm::Pool;
using keras_renorm::Team;
using keras_renorm::Workers;

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::exit(1);
}

// Callers that share the threads of one pool, each with passes of its own.
void EveryTaskRunsOnce() {
  Workers* const workers = new Workers(7);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([workers, caller] {
      for (int call = 0; call < 300; ++call) {
        Team team(*workers, 1 + (caller + call) % 5);
        for (int pass = 0; pass < 4; ++pass) {
          std::vector<std::atomic<int>> runs(call % 50);
          team.Run(runs.size(), [&](int64_t i) { ++runs[i]; });
          for (const std::atomic<int>& count : runs) Require(count == 1, "a task runs once");
        }
        if (call % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// Tasks that need each other: each has to get a thread, asleep or awake.
void EveryTaskThatIsQueuedGetsAThread() {
  Workers* const workers = new Workers(9);
  for (int round = 0; round < 200; ++round) {
    constexpr int kTasks = 8;
    std::atomic<int> begun{0}, ended{0};
    for (int i = 0; i < kTasks; ++i) {
      workers->Schedule([&] {
        ++begun;
        while (begun < kTasks) std::this_thread::yield();
        ++ended;
      });
    }
    while (ended < kTasks) std::this_thread::yield();
  }
}

// A pool that takes one task and has no memory for a second.
class SmallPool : public Pool {
 public:
  int64_t threads() const override { return 4; }
  void Schedule(std::function<void()> task) override {
    if (helper.joinable()) throw std::bad_alloc();
    helper = std::thread(task);
  }
  std::thread helper;
};

void AHelperGoesHomeWhenThereIsNoMemoryForTheNext() {
  SmallPool pool;
  {
    Team team(pool, 4);
    std::atomic<int> runs{0};
    team.Run(100, [&](int64_t) { ++runs; });
    Require(runs == 100, "all tasks run with the helpers that there are");
  }
  pool.helper.join();
}

// A pool with a full queue: it runs a task at once, in the thread that hands it over.
class FullPool : public Pool {
 public:
  int64_t threads() const override { return 3; }
  void Schedule(std::function<void()> task) override { task(); }
};

void ACallerThatIsHandedItsOwnHelpersWorksAlone() {
  FullPool pool;
  Team team(pool, 3);
  std::atomic<int> runs{0};
  team.Run(100, [&](int64_t) { ++runs; });
  Require(runs == 100, "the caller runs all tasks");
}

}  // namespace

int main() {
  EveryTaskRunsOnce();
  EveryTaskThatIsQueuedGetsAThread();
  AHelperGoesHomeWhenThereIsNoMemoryForTheNext();
  ACallerThatIsHandedItsOwnHelpersWorksAlone();
}
