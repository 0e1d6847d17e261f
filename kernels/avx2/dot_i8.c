// arch: x86_64
// flags: -mavx2
// Without VNNI: VPMADDUBSW, VPMADDWD, VPADDD for 32 multiply-adds. Products stay below saturation.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx2"
#define AB_FEATURES "avx2"
#define OPERATION "dot"
#define TYPE "i8"
#define LOOP "vpmaddubsw:10"
#define SCALABLE 0
#define VEC_BYTES 32
#define COUNT 10
#define SUMS SUMS_10
#define OPS 64
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, 0, seed)
#define LOAD(p) _mm256_loadu_si256((const __m256i_u *)(const void *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i_u *)(void *)(p), v)
#define ZERO() _mm256_setzero_si256()

typedef __m256i vec;
typedef __m256i acc_t;

/* Written out, since products of the same registers would otherwise be computed once. */
AB_INLINE vec ACC(vec acc, vec x, vec y)
{
    const vec ones = _mm256_set1_epi16(1);
    vec pairs, fours;
    __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(x), "x"(y));
    fours = _mm256_madd_epi16(pairs, ones);
    return _mm256_add_epi32(acc, fours);
}

#include "../register.h"
