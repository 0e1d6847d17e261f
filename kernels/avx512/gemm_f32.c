// arch: x86_64
// flags: -mavx512f
// Float32 by broadcast and VFMADD231PS: 12 rows by 32 columns in 24 registers.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512"
#define AB_FEATURES "avx512f"
#define TYPE "f32"
#define LOOP "vfmadd:24"
#define IN AB_F32
#define WHOLE 0
#define LOW 0
#define VEC_BYTES 64
#define OPS 32
#define MR 12
#define ROWS ROWS_12
#define LOAD(p) _mm512_loadu_ps(p)
#define BROADCAST(p) _mm512_set1_ps(ab_load_f32(p))
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ZERO() _mm512_setzero_ps()
#define ACC(acc, a, b) _mm512_fmadd_ps(a, b, acc)

typedef __m512 vec;
typedef __m512 acc_t;

AB_INLINE float ab_load_f32(const unsigned char *from)
{
    float value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
