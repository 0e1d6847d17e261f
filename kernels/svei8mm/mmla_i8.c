// arch: aarch64
// flags: -march=armv8.2-a+sve+i8mm
// SMMLA on vectors of any length: 2x8 times 8x2 in each 16 bytes.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "svei8mm"
#define AB_FEATURES "sve svei8mm"
#define OPERATION "mmla"
#define TYPE "i8"
#define LOOP "smmla:24"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define COUNT 24
#define SUMS SUMS_24
#define OPS 64
#define LANES AB_LANES_I8_MMLA
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define LOAD(p) svld1_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define STORE(p, v) svst1_s32(svptrue_b32(), (int32_t *)(void *)(p), v)
#define ZERO() svdup_s32(0)
#define ACC(acc, x, y) svmmla_s32(acc, x, y)

typedef svint8_t vec;
typedef svint32_t acc_t;

#include "../register.h"
