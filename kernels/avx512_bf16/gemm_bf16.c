// arch: x86_64
// flags: -mavx512f -mavx512bf16
// Bfloat16 by broadcast and VDPBF16PS: 12 rows by 32 columns in 24 registers.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512_bf16"
#define AB_FEATURES "avx512f avx512_bf16"
#define TYPE "bf16"
#define LOOP "vdpbf16ps:24"
#define IN AB_BF16
#define WHOLE 0
#define LOW 0
#define VEC_BYTES 64
#define OPS 64
#define MR 12
#define ROWS ROWS_12
#define LOAD(p) _mm512_loadu_si512(p)
#define BROADCAST(p) _mm512_set1_epi32(ab_load_i32(p))
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ZERO() _mm512_setzero_ps()
#define ACC(acc, a, b) _mm512_dpbf16_ps(acc, (__m512bh)(a), (__m512bh)(b))

typedef __m512i vec;
typedef __m512 acc_t;

AB_INLINE int32_t ab_load_i32(const unsigned char *from)
{
    int32_t value;
    memcpy(&value, from, 4);
    return value;
}

#include "../gemm_rows.h"
