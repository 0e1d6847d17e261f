// arch: aarch64
// flags: -march=armv8.2-a+sve
// SDOT on vectors of any length: 16 multiply-adds in each 16 bytes.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define OPERATION "dot"
#define TYPE "i8"
#define LOOP "sdot:24"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define COUNT 24
#define SUMS SUMS_24
#define OPS 32
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define LOAD(p) svld1_s8(svptrue_b8(), (const int8_t *)(const void *)(p))
#define STORE(p, v) svst1_s32(svptrue_b32(), (int32_t *)(void *)(p), v)
#define ZERO() svdup_s32(0)
#define ACC(acc, x, y) svdot_s32(acc, x, y)

typedef svint8_t vec;
typedef svint32_t acc_t;

#include "../register.h"
