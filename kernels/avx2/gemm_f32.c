// arch: x86_64
// flags: -mavx2 -mfma
// Float32 by broadcast and VFMADD231PS: 6 rows by 16 columns in 12 registers.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx2"
#define AB_FEATURES "avx2 fma"
#define TYPE "f32"
#define LOOP "vfmadd:12"
#define IN AB_F32
#define WHOLE 0
#define LOW 0
#define VEC_BYTES 32
#define OPS 16
#define MR 6
#define ROWS ROWS_6
#define LOAD(p) _mm256_loadu_ps((const float *)(const void *)(p))
#define BROADCAST(p) _mm256_set1_ps(ab_load_f32(p))
#define STORE(p, v) _mm256_storeu_ps((float *)(void *)(p), v)
#define ZERO() _mm256_setzero_ps()
#define ACC(acc, a, b) _mm256_fmadd_ps(a, b, acc)

typedef __m256 vec;
typedef __m256 acc_t;

AB_INLINE float ab_load_f32(const unsigned char *from)
{
    float value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
