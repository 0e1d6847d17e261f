// arch: aarch64
// flags: -march=armv8.2-a+i8mm
// Int8 by SMMLA: 8 rows by 12 columns in 24 registers.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "i8mm"
#define AB_FEATURES "i8mm"
#define TYPE "i8"
#define LOOP "smmla:24"
#define IN AB_I8
#define WHOLE 1
#define LOW -127
#define VEC_BYTES 16
#define OPS 64
#define SCALABLE 0
#define LOAD(p) vld1q_s8((const int8_t *)(const void *)(p))
#define LOAD_16 LOAD
#define STORE(p, v) vst1q_s32((int32_t *)(void *)(p), v)
#define ZERO() vdupq_n_s32(0)
#define ACC(acc, a, b) vmmlaq_s32(acc, a, b)

typedef int8x16_t vec;
typedef int32x4_t acc_t;

#include "../gemm_pairs.h"
