// arch: aarch64
// flags: -march=armv8.2-a+sve+i8mm
// Int8 by SMMLA: 8 rows by 6 vectors of column pairs, of any length.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "svei8mm"
#define AB_FEATURES "sve svei8mm"
#define TYPE "i8"
#define LOOP "smmla:24"
#define IN AB_I8
#define WHOLE 1
#define LOW -127
#define VEC_BYTES svcntb()
#define OPS 64
#define SCALABLE 1
#define LOAD(p) svld1_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define LOAD_16(p) svld1rq_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define STORE(p, v) svst1_s32(svptrue_b32(), (int32_t *)(void *)(p), v)
#define ZERO() svdup_s32(0)
#define ACC(acc, a, b) svmmla_s32(acc, a, b)

typedef svint8_t vec;
typedef svint32_t acc_t;

#include "../gemm_pairs.h"
