// arch: aarch64
// flags: -march=armv8.2-a+bf16
// Bfloat16 by BFMMLA: 8 rows by 12 columns in 24 registers.
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "bf16"
#define AB_FEATURES "bf16"
#define TYPE "bf16"
#define LOOP "bfmmla:24"
#define IN AB_BF16
#define WHOLE 0
#define LOW 0
#define VEC_BYTES 16
#define OPS 32
#define SCALABLE 0
#define LOAD(p) vreinterpretq_bf16_u16(vld1q_u16((const uint16_t *)(const void *)(p)))
#define LOAD_16 LOAD
#define STORE(p, v) vst1q_f32((float *)(void *)(p), v)
#define ZERO() vdupq_n_f32(0)
#define ACC(acc, a, b) vbfmmlaq_f32(acc, a, b)

typedef bfloat16x8_t vec;
typedef float32x4_t acc_t;

#include "../gemm_pairs.h"
