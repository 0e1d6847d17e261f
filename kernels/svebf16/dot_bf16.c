// arch: aarch64
// flags: -march=armv8.2-a+sve+bf16
// BFDOT on vectors of any length: 8 multiply-adds in each 16 bytes.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "svebf16"
#define AB_FEATURES "sve svebf16"
#define OPERATION "dot"
#define TYPE "bf16"
#define LOOP "bfdot:24"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define COUNT 24
#define SUMS SUMS_24
#define OPS 16
#define LANES AB_LANES_BF16_DOT
#define FILL(to, bytes, seed) ab_fill_bf16(to, (bytes) / 2, seed)
#define LOAD(p) svreinterpret_bf16(svld1_u16(svptrue_b16(), (const uint16_t *)(const void *)(p)))
#define STORE(p, v) svst1_f32(svptrue_b32(), (float *)(void *)(p), v)
#define ZERO() svdup_f32(0)
#define ACC(acc, x, y) svbfdot_f32(acc, x, y)

typedef svbfloat16_t vec;
typedef svfloat32_t acc_t;

#include "../register.h"
