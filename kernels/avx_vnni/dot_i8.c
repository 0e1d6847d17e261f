// arch: x86_64
// flags: -mavx2 -mavxvnni
// VPDPBUSD on 32-byte registers: 32 multiply-adds each, unsigned by signed.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx_vnni"
#define AB_FEATURES "avx2 avx_vnni"
#define OPERATION "dot"
#define TYPE "i8"
#define LOOP "vpdpbusd:12"
#define SCALABLE 0
#define VEC_BYTES 32
#define COUNT 12
#define SUMS SUMS_12
#define OPS 64
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, 0, seed)
#define LOAD(p) _mm256_loadu_si256((const __m256i_u *)(const void *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i_u *)(void *)(p), v)
#define ZERO() _mm256_setzero_si256()
#define ACC(acc, x, y) _mm256_dpbusd_avx_epi32(acc, x, y)

typedef __m256i vec;
typedef __m256i acc_t;

#include "../register.h"
