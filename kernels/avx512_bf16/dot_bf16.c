// arch: x86_64
// flags: -mavx512f -mavx512bf16
// VDPBF16PS on 64-byte registers: 32 multiply-adds each.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512_bf16"
#define AB_FEATURES "avx512f avx512_bf16"
#define OPERATION "dot"
#define TYPE "bf16"
#define LOOP "vdpbf16ps:24"
#define SCALABLE 0
#define VEC_BYTES 64
#define COUNT 24
#define SUMS SUMS_24
#define OPS 64
#define LANES AB_LANES_BF16_DOT
#define FILL(to, bytes, seed) ab_fill_bf16(to, (bytes) / 2, seed)
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ZERO() _mm512_setzero_ps()
#define ACC(acc, x, y) _mm512_dpbf16_ps(acc, (__m512bh)(x), (__m512bh)(y))

typedef __m512i vec;
typedef __m512 acc_t;

#include "../register.h"
