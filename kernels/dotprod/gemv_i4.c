// arch: aarch64
// flags: -march=armv8.2-a+dotprod
// Int4 weights by SDOT: a group is two dots of 16, its four lanes scaled and kept apart.
#include <arm_neon.h>

#include "../gemv_layout.h"

#define AB_ISA "dotprod"
#define AB_FEATURES "asimddp"
#define LOOP "sdot:8"
#define SCALABLE 0
#define GROUPS 1
#define LOOP_BYTES (4 * 20)
#define LOOP_OPS (4 * 64)

AB_INLINE float32x4_t step(float32x4_t sum, const struct gemv *g, size_t at, int8x16_t x_low,
                           int8x16_t x_high, float x_scale)
{
    const uint8x16_t byte = vld1q_u8(g->nibbles + at * 16);
    const int8x16_t eight = vdupq_n_s8(8);
    const int8x16_t low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(byte, vdupq_n_u8(15))), eight);
    const int8x16_t high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(byte, 4)), eight);
    const int32x4_t dots = vdotq_s32(vdotq_s32(vdupq_n_s32(0), low, x_low), high, x_high);
    return vfmaq_n_f32(sum, vcvtq_f32_s32(dots), g->scales[at] * x_scale);
}

static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4])
{
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0, s2 = s0, s3 = s0;
    const size_t r0 = row[0] * g->groups, r1 = row[1] * g->groups;
    const size_t r2 = row[2] * g->groups, r3 = row[3] * g->groups;
    for (size_t i = 0; i < turns; i++) {
        const int8x16_t low = vld1q_s8(g->x + i * AB_GROUP);
        const int8x16_t high = vld1q_s8(g->x + i * AB_GROUP + 16);
        const float scale = g->x_scales[i];
        s0 = step(s0, g, r0 + i, low, high, scale);
        s1 = step(s1, g, r1 + i, low, high, scale);
        s2 = step(s2, g, r2 + i, low, high, scale);
        s3 = step(s3, g, r3 + i, low, high, scale);
    }
    sums[0] = vaddvq_f32(s0);
    sums[1] = vaddvq_f32(s1);
    sums[2] = vaddvq_f32(s2);
    sums[3] = vaddvq_f32(s3);
}

#include "../gemv.h"
