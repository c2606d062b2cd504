// What the headers of GCC 11 and later use and older systems lack, for this library alone.

#include "portable.h"

#if defined(__GLIBC__) && defined(__GLIBCXX__)

#define KR_OWN extern "C" __attribute__((visibility("hidden")))

// std::__throw_bad_array_new_length(), from libstdc++ of GCC 11 on.
KR_OWN [[noreturn]] void _ZSt28__throw_bad_array_new_lengthv() {
  throw std::bad_array_new_length();
}

// From glibc 2.32 on: whether reference counts need no atomic operations. They always may.
KR_OWN char __libc_single_threaded;
char __libc_single_threaded = 0;

#endif
