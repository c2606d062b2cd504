// The threads that XLA lends a call.

#ifndef KERAS_RENORM_OPS_NATIVE_XLA_POOL_H_
#define KERAS_RENORM_OPS_NATIVE_XLA_POOL_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "team.h"
#include "xla_ffi.h"

namespace keras_renorm {

// Whether there was no error. Gives XLA's errors back.
inline bool Succeeds(const xla_ffi::Api* api, xla_ffi::Error* error) {
  if (error == nullptr) return true;
  xla_ffi::DestroyError destroy = {sizeof destroy, nullptr, error};
  api->destroy_error(&destroy);
  return false;
}

class XlaPool : public Pool {
 public:
  explicit XlaPool(const xla_ffi::CallFrame& frame) : api_(frame.api), context_(frame.context) {}

  int64_t threads() const override {
    int64_t threads = 0;
    if (!xla_ffi::CountsThreads(*api_)) return std::thread::hardware_concurrency();
    xla_ffi::CountThreads count = {sizeof count, nullptr, context_, &threads};
    return Succeeds(api_, api_->count_threads(&count)) ? threads : 0;
  }

  void Schedule(std::function<void()> task) override {
    auto* const data = new std::function<void()>(std::move(task));
    xla_ffi::Schedule schedule = {sizeof schedule, nullptr, context_, RunTask, data};
    // Without it the team has one helper less, for which nobody waits.
    if (!Succeeds(api_, api_->schedule(&schedule))) delete data;
  }

 private:
  static void RunTask(void* data) {
    auto* const task = static_cast<std::function<void()>*>(data);
    (*task)();
    delete task;
  }

  const xla_ffi::Api* const api_;
  xla_ffi::Context* const context_;
};

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_XLA_POOL_H_
