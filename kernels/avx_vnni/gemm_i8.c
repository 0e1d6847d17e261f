// arch: x86_64
// flags: -mavx2 -mavxvnni
// Int8 by broadcast and VPDPBUSD: 6 rows by 16 columns in 12 registers.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx_vnni"
#define AB_FEATURES "avx2 avx_vnni"
#define TYPE "i8"
#define LOOP "vpdpbusd:12"
#define IN AB_I8
#define WHOLE 1
#define LOW 0
#define VEC_BYTES 32
#define OPS 64
#define MR 6
#define ROWS ROWS_6
#define LOAD(p) _mm256_loadu_si256((const __m256i_u *)(const void *)(p))
#define BROADCAST(p) _mm256_set1_epi32(ab_load_i32(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i_u *)(void *)(p), v)
#define ZERO() _mm256_setzero_si256()
#define ACC(acc, a, b) _mm256_dpbusd_avx_epi32(acc, a, b)

typedef __m256i vec;
typedef __m256i acc_t;

AB_INLINE int32_t ab_load_i32(const unsigned char *from)
{
    int32_t value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
