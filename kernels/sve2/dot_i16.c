// arch: aarch64
// flags: -march=armv8.5-a+sve2
// SMLALB and SMLALT on vectors of any length: 8 int16 multiply-adds in each 16 bytes.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve2"
#define AB_FEATURES "sve sve2"
#define OPERATION "dot"
#define TYPE "i16"
#define LOOP "smlalb|smlalt:48"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define COUNT 24
#define SUMS SUMS_24
#define OPS 16
#define LANES AB_LANES_I16_DOT
#define FILL(to, bytes, seed) ab_fill_i16(to, (bytes) / 2, seed)
#define LOAD(p) svld1_s16(svptrue_b8(), (const int16_t *)(const void *)(p))
#define STORE(p, v) svst1_s32(svptrue_b32(), (int32_t *)(void *)(p), v)
#define ZERO() svdup_s32(0)
#define ACC(acc, x, y) svmlalt_s32(svmlalb_s32(acc, x, y), x, y)

typedef svint16_t vec;
typedef svint32_t acc_t;

#include "../register.h"
