// arch: aarch64
// flags: -march=armv8.2-a+sve
// FMLA on vectors of any length: 4 multiply-adds in each 16 bytes.
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define OPERATION "fma"
#define TYPE "f32"
#define LOOP "fmla:24"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define COUNT 24
#define SUMS SUMS_24
#define OPS 8
#define LANES AB_LANES_F32
#define FILL(to, bytes, seed) ab_fill_f32(to, (bytes) / 4, seed)
#define LOAD(p) svld1_f32(svptrue_b8(), (const float *)(const void *)(p))
#define STORE(p, v) svst1_f32(svptrue_b32(), (float *)(void *)(p), v)
#define ZERO() svdup_f32(0)
#define ACC(acc, x, y) svmla_f32_x(svptrue_b32(), acc, x, y)

typedef svfloat32_t vec;
typedef svfloat32_t acc_t;

#include "../register.h"
