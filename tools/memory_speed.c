// Passes over memory as fast as a core can make them, for the floor of bench_norm.py.
//
// A plain copy reads the lines that it is about to overwrite, which is a third pass. Stores past the
// cache do not. Both are here: the plain copy is faster for a tensor that fits in the cache.

#include <immintrin.h>
#include <stddef.h>
#include <string.h>

// `bytes` is a multiple of 256, the addresses of 64.
void stream_copy(char* to, const char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)(to + i), _mm512_load_si512((const __m512i*)(from + i)));
#else
    for (size_t j = i; j < i + 64; j += 16) {
      _mm_stream_si128((__m128i*)(to + j), _mm_load_si128((const __m128i*)(from + j)));
    }
#endif
  }
  _mm_sfence();
}

void plain_copy(char* to, const char* from, size_t bytes) { memcpy(to, from, bytes); }

// The sum of all 64-bit words, so that none is left unread.
long long read_all(const char* from, size_t bytes) {
  typedef long long Words __attribute__((vector_size(64)));
  Words sums[4] = {{0}};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int k = 0; k < 4; ++k) sums[k] += *(const Words*)(from + i + 64 * k);
  }
  const Words all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  long long total = 0;
  for (int k = 0; k < 8; ++k) total += all[k];
  return total;
}
