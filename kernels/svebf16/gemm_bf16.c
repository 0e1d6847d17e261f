// arch: aarch64
// flags: -march=armv8.2-a+sve+bf16
// Bfloat16 by BFMMLA: 8 rows by 6 vectors of column pairs, of any length.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "svebf16"
#define AB_FEATURES "sve svebf16"
#define TYPE "bf16"
#define LOOP "bfmmla:24"
#define IN AB_BF16
#define WHOLE 0
#define LOW 0
#define VEC_BYTES svcntb()
#define OPS 32
#define SCALABLE 1
#define LOAD(p) svreinterpret_bf16(svld1_u16(svptrue_b16(), (const uint16_t *)(const void *)(p)))
#define LOAD_16(p) svreinterpret_bf16(svld1rq_u16(svptrue_b16(), (const uint16_t *)(const void *)(p)))
#define STORE(p, v) svst1_f32(svptrue_b32(), (float *)(void *)(p), v)
#define ZERO() svdup_f32(0)
#define ACC(acc, a, b) svbfmmla_f32(acc, a, b)

typedef svbfloat16_t vec;
typedef svfloat32_t acc_t;

#include "../gemm_pairs.h"
