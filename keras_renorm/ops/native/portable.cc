// Symbols that headers of GCC 11 and later use and older systems lack, for this library alone.

#include "portable.h"

#if defined(__GLIBC__) && defined(__GLIBCXX__)

#define KR_OWN extern "C" __attribute__((visibility("hidden")))

// std::__throw_bad_array_new_length(), in libstdc++ from GCC 11 on.
KR_OWN [[noreturn]] void _ZSt28__throw_bad_array_new_lengthv() {
  throw std::bad_array_new_length();
}

// In glibc from 2.32 on: whether reference counts need no atomic operations. 0 is always safe.
KR_OWN char __libc_single_threaded;
char __libc_single_threaded = 0;

#endif
