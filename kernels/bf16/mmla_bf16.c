// arch: aarch64
// flags: -march=armv8.2-a+bf16
// BFMMLA on 16-byte registers: 2x4 times 4x2, 16 multiply-adds each.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "bf16"
#define AB_FEATURES "bf16"
#define OPERATION "mmla"
#define TYPE "bf16"
#define LOOP "bfmmla:24"
#define SCALABLE 0
#define VEC_BYTES 16
#define COUNT 24
#define SUMS SUMS_24
#define OPS 32
#define LANES AB_LANES_BF16_MMLA
#define FILL(to, bytes, seed) ab_fill_bf16(to, (bytes) / 2, seed)
#define LOAD(p) vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)(const void *)(p)))
#define STORE(p, v) vst1q_f32((float *)(void *)(p), v)
#define ZERO() vdupq_n_f32(0)
#define ACC(acc, x, y) vbfmmlaq_f32(acc, x, y)

typedef bfloat16x8_t vec;
typedef float32x4_t acc_t;

#include "../register.h"
