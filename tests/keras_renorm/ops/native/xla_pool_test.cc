// A pool whose XLA takes no task: the caller does all of the work, and nothing waits or leaks.

#include <atomic>
#include <cstdlib>

#include "team.h"
#include "xla_pool.h"

namespace keras_renorm {
namespace {

int errors = 0;

xla_ffi::Error* Refuse(xla_ffi::Schedule*) {
  ++errors;
  return reinterpret_cast<xla_ffi::Error*>(&errors);
}

void Destroy(xla_ffi::DestroyError*) { --errors; }

xla_ffi::Error* Count(xla_ffi::CountThreads* call) {
  *call->threads = 4;
  return nullptr;
}

bool WorksAlone() {
  xla_ffi::Api api = {};
  api.struct_size = 2 * sizeof api;
  api.schedule = Refuse;
  api.destroy_error = Destroy;
  api.count_threads = Count;
  xla_ffi::CallFrame frame = {};
  frame.api = &api;
  XlaPool pool(frame);
  std::atomic<int> done{0};
  {
    Team team(pool, 4);
    team.Run(100, [&](int64_t) { ++done; });
  }
  return done == 100 && errors == 0;
}

}  // namespace
}  // namespace keras_renorm

int main() { return keras_renorm::WorksAlone() ? EXIT_SUCCESS : EXIT_FAILURE; }
