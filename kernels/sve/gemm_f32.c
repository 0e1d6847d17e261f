// arch: aarch64
// flags: -march=armv8.2-a+sve
// Float32 by FMLA with a lane: 8 rows by 3 vectors of any length in 24 registers.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define TYPE "f32"
#define LOOP "fmla:24"
#define IN AB_F32
#define WHOLE 0
#define LOW 0
#define VEC_BYTES svcntb()
#define OPS 8
#define SCALABLE 1
#define LOAD(p) svld1_f32(svptrue_b32(), (const float *)(const void *)(p))
#define LOAD_16(p) svld1rq_f32(svptrue_b32(), (const float *)(const void *)(p))
#define STORE(p, v) svst1_f32(svptrue_b32(), (float *)(void *)(p), v)
#define ZERO() svdup_f32(0)
#define ACC_LANE(acc, b, a, lane) svmla_lane_f32(acc, b, a, lane)

typedef svfloat32_t vec;
typedef svfloat32_t acc_t;

#include "../gemm_lanes.h"
