// Picks the kernels for the processor at hand.

#ifdef KR_X86_VARIANTS
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace keras_renorm {

#define KR_DECLARE(isa) \
  namespace isa { extern const Kernels kFloat, kDouble, kHalf, kBFloat16; }
KR_DECLARE(baseline)
#ifdef KR_X86_VARIANTS
KR_DECLARE(avx2)
KR_DECLARE(avx512)
#endif
#undef KR_DECLARE

namespace {

enum class Isa { kBaseline, kAvx2, kAvx512 };

#ifdef KR_X86_VARIANTS
// Whether to use a set that the processor has. KERAS_RENORM_INSTRUCTION_SET can name a lesser one, for
// tests: every set must give the same numbers. loader.py refuses other names.
bool Allowed(const char* isa) {
  const char* most = std::getenv("KERAS_RENORM_INSTRUCTION_SET");
  if (most == nullptr || *most == '\0' || std::strcmp(most, "avx512") == 0) return true;
  return std::strcmp(most, "avx2") == 0 && std::strcmp(isa, "avx2") == 0;
}

// Clang 14's __builtin_cpu_supports does not know "f16c".
bool HasHalfConversions() {
  unsigned int a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

Isa Detect() {
#ifdef KR_X86_VARIANTS
  __builtin_cpu_init();
  if (Allowed("avx512") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (Allowed("avx2") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && HasHalfConversions()) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

Isa Chosen() {
  static const Isa isa = Detect();
  return isa;
}

}  // namespace

#ifdef KR_X86_VARIANTS
#define KR_PICK(type, table)                         \
  template <> const Kernels& KernelsFor<type>() {    \
    switch (Chosen()) {                              \
      case Isa::kAvx512: return avx512::table;       \
      case Isa::kAvx2: return avx2::table;           \
      default: return baseline::table;               \
    }                                                \
  }
#else
#define KR_PICK(type, table) \
  template <> const Kernels& KernelsFor<type>() { return baseline::table; }
#endif
KR_PICK(float, kFloat)
KR_PICK(double, kDouble)
KR_PICK(Half, kHalf)
KR_PICK(BFloat16, kBFloat16)
#undef KR_PICK

const char* InstructionSet() {
  switch (Chosen()) {
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    default: return "baseline";
  }
}

}  // namespace keras_renorm
