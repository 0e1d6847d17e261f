// arch: aarch64
// flags: -march=armv8.2-a+i8mm
// SMMLA on 16-byte registers: 2x8 times 8x2, 32 multiply-adds each.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "i8mm"
#define AB_FEATURES "i8mm"
#define OPERATION "mmla"
#define TYPE "i8"
#define LOOP "smmla:24"
#define SCALABLE 0
#define VEC_BYTES 16
#define COUNT 24
#define SUMS SUMS_24
#define OPS 64
#define LANES AB_LANES_I8_MMLA
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define LOAD(p) vld1q_s8((const int8_t *)(const void *)(p))
#define STORE(p, v) vst1q_s32((int32_t *)(void *)(p), v)
#define ZERO() vdupq_n_s32(0)
#define ACC(acc, x, y) vmmlaq_s32(acc, x, y)

typedef int8x16_t vec;
typedef int32x4_t acc_t;

#include "../register.h"
