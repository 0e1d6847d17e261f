// arch: x86_64
// flags: -mavx2 -mfma
// VFMADD231PS on 32-byte registers: 8 multiply-adds each.
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx2"
#define AB_FEATURES "avx2 fma"
#define OPERATION "fma"
#define TYPE "f32"
#define LOOP "vfmadd:12"
#define SCALABLE 0
#define VEC_BYTES 32
#define COUNT 12
#define SUMS SUMS_12
#define OPS 16
#define LANES AB_LANES_F32
#define FILL(to, bytes, seed) ab_fill_f32(to, (bytes) / 4, seed)
#define LOAD(p) _mm256_loadu_ps((const float *)(const void *)(p))
#define STORE(p, v) _mm256_storeu_ps((float *)(void *)(p), v)
#define ZERO() _mm256_setzero_ps()
#define ACC(acc, x, y) _mm256_fmadd_ps(x, y, acc)

typedef __m256 vec;
typedef __m256 acc_t;

#include "../register.h"
