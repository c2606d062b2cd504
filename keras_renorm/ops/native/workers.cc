#include "workers.h"

#include "tensor.h"

namespace keras_renorm {
namespace {

std::atomic<int64_t> thread_count{0};  // 0: a thread for each processor

}  // namespace

Workers& SharedWorkers() {
  static Workers* const workers = [] {
    const int64_t wanted = thread_count.load();
    return new Workers(wanted > 0 ? wanted : std::thread::hardware_concurrency());
  }();
  return *workers;
}

}  // namespace keras_renorm

// Sets the threads of a call, the caller included. Later calls than the first do not heed it.
KR_EXPORT void keras_renorm_set_threads(int64_t threads) {
  keras_renorm::thread_count.store(threads);
}

// The threads that work on a call, the caller included.
KR_EXPORT int keras_renorm_threads() {
  return static_cast<int>(keras_renorm::SharedWorkers().threads());
}
