// arch: x86_64
// flags: -mavx512f -mavx512vnni
// Int8 by broadcast and VPDPBUSD: 12 rows by 32 columns in 24 registers.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512_vnni"
#define AB_FEATURES "avx512f avx512_vnni"
#define TYPE "i8"
#define LOOP "vpdpbusd:24"
#define IN AB_I8
#define WHOLE 1
#define LOW 0
#define VEC_BYTES 64
#define OPS 128
#define MR 12
#define ROWS ROWS_12
#define LOAD(p) _mm512_loadu_si512(p)
#define BROADCAST(p) _mm512_set1_epi32(ab_load_i32(p))
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ZERO() _mm512_setzero_si512()
#define ACC(acc, a, b) _mm512_dpbusd_epi32(acc, a, b)

typedef __m512i vec;
typedef __m512i acc_t;

AB_INLINE int32_t ab_load_i32(const unsigned char *from)
{
    int32_t value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
