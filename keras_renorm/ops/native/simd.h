// Vectors of accumulators, and how to read the four input types into them and write them back.
//
// The compiler's own vectors (GCC and Clang) let one source serve AVX-512, AVX2, SSE2 and ARM. Only
// kernels.cc includes this file. It is compiled once per instruction set, in a namespace of that set.

#ifndef KERAS_RENORM_OPS_NATIVE_SIMD_H_
#define KERAS_RENORM_OPS_NATIVE_SIMD_H_

#include <cstdint>

#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define KR_INLINE inline __attribute__((always_inline))

namespace keras_renorm {
namespace KR_ISA {

typedef float F32 __attribute__((vector_size(64)));
typedef double F64 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));

// The type that sums and normalises values of T, and its vector.
template <typename T> struct Wide { using Scalar = float; using Vector = F32; };
template <> struct Wide<double> { using Scalar = double; using Vector = F64; };

typedef float Floats8 __attribute__((vector_size(32)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef uint8_t Bytes16 __attribute__((vector_size(16)));
typedef uint8_t Bytes8 __attribute__((vector_size(8)));

// A vector's number of lanes, and vectors of as many float32 values, integers or bytes.
template <typename V> struct LanesOf;
template <> struct LanesOf<F32> {
  static constexpr int value = 16;
  using Scalar = float;
  using Floats = F32;
  using Bytes = Bytes16;
  using Ints = Ints16;
};
template <> struct LanesOf<F64> {
  static constexpr int value = 8;
  using Scalar = double;
  using Floats = Floats8;
  using Bytes = Bytes8;
  using Ints = Ints8;
};
static_assert(sizeof(F32) == kVectorBytes && LanesOf<F32>::value == kMostLanes);
static_assert(sizeof(F64) == kVectorBytes && LanesOf<F64>::value == kMostLanes / 2);

template <typename V, typename S> KR_INLINE V LoadRaw(const S* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V, typename S> KR_INLINE void StoreRaw(S* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}
template <typename V> KR_INLINE V Splat(typename LanesOf<V>::Scalar s) { return V{} + s; }

KR_INLINE F32 Load(const float* p) { return LoadRaw<F32>(p); }
KR_INLINE F64 Load(const double* p) { return LoadRaw<F64>(p); }
KR_INLINE void Store(float* p, F32 v) { StoreRaw(p, v); }
KR_INLINE void Store(double* p, F64 v) { StoreRaw(p, v); }

// bfloat16 is the upper half of a float32. Writing rounds to the nearest, ties to even.
KR_INLINE F32 Load(const BFloat16* p) {
  return (F32)(__builtin_convertvector(LoadRaw<U16>(p), U32) << 16);
}
KR_INLINE void Store(BFloat16* p, F32 v) {
  const U32 bits = (U32)v;
  const U32 rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const U32 quiet = bits | 0x400000u;  // a NaN must not be rounded to infinity
  StoreRaw(p, __builtin_convertvector((v == v ? rounded : quiet) >> 16, U16));
}

#if defined(__AVX512F__)
KR_INLINE F32 Load(const Half* p) { return (F32)_mm512_cvtph_ps(LoadRaw<__m256i>(p)); }
KR_INLINE void Store(Half* p, F32 v) {
  StoreRaw(p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
KR_INLINE F32 Load(const Half* p) {
  F32 v;
  const __m256 halves[2] = {_mm256_cvtph_ps(LoadRaw<__m128i>(p)),
                            _mm256_cvtph_ps(LoadRaw<__m128i>(p + 8))};
  __builtin_memcpy(&v, halves, sizeof v);
  return v;
}
KR_INLINE void Store(Half* p, F32 v) {
  __m256 halves[2];
  __builtin_memcpy(halves, &v, sizeof v);
  for (int i = 0; i < 2; ++i) StoreRaw(p + 8 * i, _mm256_cvtps_ph(halves[i], 0));
}
#else
// As the hardware does, subnormals included, but without float32 subnormals on the way, which
// TensorFlow's threads take for 0. A half subnormal counts units of 2^-24, which is the unit of 0.5f.
KR_INLINE F32 Load(const Half* p) {
  const U32 h = __builtin_convertvector(LoadRaw<U16>(p), U32);
  const U32 magnitude = h & 0x7fffu;
  const U32 special = (magnitude << 13) | 0x7f800000u;
  const U32 normal = (magnitude << 13) + 0x38000000u;
  const U32 tiny = (U32)((F32)(magnitude + 0x3f000000u) - 0.5f);
  U32 bits = magnitude < 0x400u ? tiny : normal;
  bits = magnitude >= 0x7c00u ? special : bits;
  return (F32)(bits | ((h & 0x8000u) << 16));
}
KR_INLINE void Store(Half* p, F32 v) {
  const U32 bits = (U32)v, magnitude = bits & 0x7fffffffu;
  const U32 rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  const U32 tiny = (U32)((F32)magnitude + 0.5f) - 0x3f000000u;  // rounds to that unit
  U32 out = magnitude < 0x38800000u ? tiny : rounded;
  out = magnitude >= 0x477ff000u ? U32{} + 0x7c00u : out;
  out = magnitude > 0x7f800000u ? U32{} + 0x7e00u : out;
  StoreRaw(p, __builtin_convertvector(out | ((bits >> 16) & 0x8000u), U16));
}
#endif

// Stores past the cache, without reading the line first or pushing out what the next pass will read.
// The address must be a multiple of the vector's size in memory (64 bytes, or 32 for half types).
// Call FenceStreams before another thread learns of the result.
#if defined(__x86_64__)
template <typename R> KR_INLINE void StreamRegister(R* p, R v) {
  if constexpr (sizeof(R) == 16) {
    _mm_stream_si128((__m128i*)p, (__m128i)v);
#if defined(__AVX2__)
  } else if constexpr (sizeof(R) == 32) {
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#endif
#if defined(__AVX512F__)
  } else {
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#endif
  }
}
#if defined(__AVX512F__)
typedef long long Register __attribute__((vector_size(64), may_alias));
#elif defined(__AVX2__)
typedef long long Register __attribute__((vector_size(32), may_alias));
#else
typedef long long Register __attribute__((vector_size(16), may_alias));
#endif
template <typename T> KR_INLINE void Stream(T* p, typename Wide<T>::Vector v) {
  constexpr int kBytes = LanesOf<typename Wide<T>::Vector>::value * sizeof(T);
  typedef long long HalfRegister __attribute__((vector_size(32), may_alias));
  alignas(64) T stored[LanesOf<typename Wide<T>::Vector>::value];
  Store(stored, v);
  if constexpr (kBytes < (int)sizeof(Register)) {
    static_assert(kBytes == sizeof(HalfRegister));
    StreamRegister((HalfRegister*)p, *(const HalfRegister*)stored);
  } else {
    static_assert(kBytes % sizeof(Register) == 0);
    for (int i = 0; i < kBytes / (int)sizeof(Register); ++i) {
      StreamRegister((Register*)p + i, ((const Register*)stored)[i]);
    }
  }
}
KR_INLINE void FenceStreams() { _mm_sfence(); }
#else
template <typename T> KR_INLINE void Stream(T* p, typename Wide<T>::Vector v) { Store(p, v); }
KR_INLINE void FenceStreams() {}
#endif

}  // namespace KR_ISA
}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_SIMD_H_
