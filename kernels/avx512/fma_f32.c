// arch: x86_64
// flags: -mavx512f
// VFMADD231PS on 64-byte registers: 16 multiply-adds each.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512"
#define AB_FEATURES "avx512f"
#define OPERATION "fma"
#define TYPE "f32"
#define LOOP "vfmadd:24"
#define SCALABLE 0
#define VEC_BYTES 64
#define COUNT 24
#define SUMS SUMS_24
#define OPS 32
#define LANES AB_LANES_F32
#define FILL(to, bytes, seed) ab_fill_f32(to, (bytes) / 4, seed)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ZERO() _mm512_setzero_ps()
#define ACC(acc, x, y) _mm512_fmadd_ps(x, y, acc)

typedef __m512 vec;
typedef __m512 acc_t;

#include "../register.h"
