// Large pages for large results.

#ifndef KERAS_RENORM_OPS_NATIVE_PAGES_H_
#define KERAS_RENORM_OPS_NATIVE_PAGES_H_

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <cstdint>

#include "tensor.h"

namespace keras_renorm {

// From this size, two large pages, a result holds a whole large page.
constexpr int64_t kLargePagesBytes = 4 << 20;

// Asks the system for large pages (2 MB on x86) under a result. A runtime such as JAX gives a
// result's memory back and gets it anew at the next call, and the system clears each page at the
// first write. With large pages forward + backward of 32x112x112x64 under JAX take 55 to 64 ms instead
// of 83 to 91, and of 32x56x56x64 6 to 12 instead of 5 to 21 (tools/bench_norm.py, two cores of a
// Xeon, depending on what malloc keeps). This is a hint. It changes nothing for memory that was
// written to before, nor on systems without large pages.
inline void AskForLargePages(const Tensor& result) {
#if defined(MADV_HUGEPAGE)
  const int64_t bytes = result.type.bytes();
  if (bytes < kLargePagesBytes) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t at = reinterpret_cast<uintptr_t>(result.data);
  const uintptr_t first = (at + page - 1) / page * page, end = (at + bytes) / page * page;
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  static_cast<void>(result);
#endif
}

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_PAGES_H_
