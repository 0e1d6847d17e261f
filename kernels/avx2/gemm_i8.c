// arch: x86_64
// flags: -mavx2
// Int8 without VNNI: VPMADDUBSW, VPMADDWD, VPADDD; 4 rows by 16 columns.
// 2 * 127 * 127 stays below the saturation of VPMADDUBSW.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx2"
#define AB_FEATURES "avx2"
#define TYPE "i8"
#define LOOP "vpmaddubsw:8"
#define IN AB_I8
#define WHOLE 1
#define LOW 0
#define VEC_BYTES 32
#define OPS 64
#define MR 4
#define ROWS ROWS_4
#define LOAD(p) _mm256_loadu_si256((const __m256i_u *)(const void *)(p))
#define BROADCAST(p) _mm256_set1_epi32(ab_load_i32(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i_u *)(void *)(p), v)
#define ZERO() _mm256_setzero_si256()
#define ACC(acc, a, b) _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))

typedef __m256i vec;
typedef __m256i acc_t;

AB_INLINE int32_t ab_load_i32(const unsigned char *from)
{
    int32_t value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
