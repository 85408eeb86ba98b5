// Vectors of floats as GCC and Clang have them, as wide as the processor's registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(VGGNET_LANES)  // the tests compile every width on one machine
#elif defined(__AVX512F__)
#define VGGNET_LANES 16
#elif defined(__AVX__)
#define VGGNET_LANES 8
#else
#define VGGNET_LANES 4
#endif

#define INLINE inline __attribute__((always_inline))

constexpr int LANES = VGGNET_LANES;

// A micro-tile of the matrix product: ROWS rows by COLUMNS columns stay in registers. 16 registers of
// AVX2 hold 6×2 sums, two columns and one row's value; 32 of AVX-512 or NEON hold 12×2.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ROWS = 12;
#else
constexpr int ROWS = 6;
#endif
constexpr int COLUMNS = 2 * LANES;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Vec load(const float *p) { return *reinterpret_cast<const Loose *>(p); }
INLINE void store(float *p, Vec v) { *reinterpret_cast<Loose *>(p) = v; }
INLINE Vec all(float x) { return x - Vec{}; }  // a sum with 0 would be computed, for the sake of -0

// a·b + c, rounded once where the processor can. Written out, and contraction by the compiler turned off,
// since compilers contract the same sum in one place and not in another: results would depend on how many
// rows a loop happens to take.
INLINE Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__) && VGGNET_LANES == 16
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && VGGNET_LANES == 8
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__) && VGGNET_LANES == 4
  return (Vec)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__aarch64__) && VGGNET_LANES == 4
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
INLINE Vec fused(float a, Vec b, Vec c) { return fused(all(a), b, c); }

INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec relu_of(Vec x) { return larger(Vec{}, x); }  // in this order NaN stays NaN
