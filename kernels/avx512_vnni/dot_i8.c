// arch: x86_64
// flags: -mavx512f -mavx512vnni
// VPDPBUSD on 64-byte registers: 64 multiply-adds each, unsigned by signed.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512_vnni"
#define AB_FEATURES "avx512f avx512_vnni"
#define OPERATION "dot"
#define TYPE "i8"
#define LOOP "vpdpbusd:24"
#define SCALABLE 0
#define VEC_BYTES 64
#define COUNT 24
#define SUMS SUMS_24
#define OPS 128
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, 0, seed)
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ZERO() _mm512_setzero_si512()
#define ACC(acc, x, y) _mm512_dpbusd_epi32(acc, x, y)

typedef __m512i vec;
typedef __m512i acc_t;

#include "../register.h"
