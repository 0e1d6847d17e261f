// arch: aarch64
// flags: -march=armv8.2-a+dotprod
// SDOT on 16-byte registers: 16 multiply-adds each.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "dotprod"
#define AB_FEATURES "asimddp"
#define OPERATION "dot"
#define TYPE "i8"
#define LOOP "sdot:24"
#define SCALABLE 0
#define VEC_BYTES 16
#define COUNT 24
#define SUMS SUMS_24
#define OPS 32
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define LOAD(p) vld1q_s8((const int8_t *)(const void *)(p))
#define STORE(p, v) vst1q_s32((int32_t *)(void *)(p), v)
#define ZERO() vdupq_n_s32(0)
#define ACC(acc, x, y) vdotq_s32(acc, x, y)

typedef int8x16_t vec;
typedef int32x4_t acc_t;

#include "../register.h"
