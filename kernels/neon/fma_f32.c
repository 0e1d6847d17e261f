// arch: aarch64
// FMLA on 16-byte registers: 4 multiply-adds each.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "neon"
#define AB_FEATURES "asimd"
#define OPERATION "fma"
#define TYPE "f32"
#define LOOP "fmla:24"
#define SCALABLE 0
#define VEC_BYTES 16
#define COUNT 24
#define SUMS SUMS_24
#define OPS 8
#define LANES AB_LANES_F32
#define FILL(to, bytes, seed) ab_fill_f32(to, (bytes) / 4, seed)
#define LOAD(p) vld1q_f32((const float *)(const void *)(p))
#define STORE(p, v) vst1q_f32((float *)(void *)(p), v)
#define ZERO() vdupq_n_f32(0)
#define ACC(acc, x, y) vfmaq_f32(acc, x, y)

typedef float32x4_t vec;
typedef float32x4_t acc_t;

#include "../register.h"
