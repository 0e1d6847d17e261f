// arch: aarch64
// Float32 by FMLA with a lane: 8 rows by 12 columns in 24 registers.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "neon"
#define AB_FEATURES "asimd"
#define TYPE "f32"
#define LOOP "fmla:24"
#define IN AB_F32
#define WHOLE 0
#define LOW 0
#define VEC_BYTES 16
#define OPS 8
#define SCALABLE 0
#define LOAD(p) vld1q_f32((const float *)(const void *)(p))
#define LOAD_16 LOAD
#define STORE(p, v) vst1q_f32((float *)(void *)(p), v)
#define ZERO() vdupq_n_f32(0)
#define ACC_LANE(acc, b, a, lane) vfmaq_laneq_f32(acc, b, a, lane)

typedef float32x4_t vec;
typedef float32x4_t acc_t;

#include "../gemm_lanes.h"
