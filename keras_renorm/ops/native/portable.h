// Older names of symbols that newer systems also know by new names, so that a library that was built
// here loads on every Linux from glibc 2.28 on (manylinux_2_28). Include it in sources that use such
// symbols. portable.cc has the rest.

#ifndef KERAS_RENORM_OPS_NATIVE_PORTABLE_H_
#define KERAS_RENORM_OPS_NATIVE_PORTABLE_H_

#include <new>  // any standard header tells whose standard library it is

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__GLIBC__) && defined(__GLIBCXX__)
// The names before glibc 2.34, those of the first glibc for the processor, and before GCC 12.
#if defined(__x86_64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#else
__asm__(".symver dlopen, dlopen@GLIBC_2.17");
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
#endif
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE, "
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif

#endif  // KERAS_RENORM_OPS_NATIVE_PORTABLE_H_
