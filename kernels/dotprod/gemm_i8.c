// arch: aarch64
// flags: -march=armv8.2-a+dotprod
// Int8 by SDOT with a lane: 8 rows by 12 columns in 24 registers.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "dotprod"
#define AB_FEATURES "asimddp"
#define TYPE "i8"
#define LOOP "sdot:24"
#define IN AB_I8
#define WHOLE 1
#define LOW -127
#define VEC_BYTES 16
#define OPS 32
#define SCALABLE 0
#define LOAD(p) vld1q_s8((const int8_t *)(const void *)(p))
#define LOAD_16 LOAD
#define STORE(p, v) vst1q_s32((int32_t *)(void *)(p), v)
#define ZERO() vdupq_n_s32(0)
#define ACC_LANE(acc, b, a, lane) vdotq_laneq_s32(acc, b, a, lane)

typedef int8x16_t vec;
typedef int32x4_t acc_t;

#include "../gemm_lanes.h"
