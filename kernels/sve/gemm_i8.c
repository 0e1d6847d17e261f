// arch: aarch64
// flags: -march=armv8.2-a+sve
// Int8 by SDOT with a lane: 8 rows by 3 vectors of any length in 24 registers.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define TYPE "i8"
#define LOOP "sdot:24"
#define IN AB_I8
#define WHOLE 1
#define LOW -127
#define VEC_BYTES svcntb()
#define OPS 32
#define SCALABLE 1
#define LOAD(p) svld1_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define LOAD_16(p) svld1rq_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define STORE(p, v) svst1_s32(svptrue_b32(), (int32_t *)(void *)(p), v)
#define ZERO() svdup_s32(0)
#define ACC_LANE(acc, b, a, lane) svdot_lane_s32(acc, b, a, lane)

typedef svint8_t vec;
typedef svint32_t acc_t;

#include "../gemm_lanes.h"
