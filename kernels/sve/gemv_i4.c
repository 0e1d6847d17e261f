// arch: aarch64
// flags: -march=armv8.2-a+sve
// Int4 weights by SDOT on vectors of any length: each 16 bytes of a vector are one group.
#include <arm_sve.h>

#include "../gemv_layout.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define LOOP "sdot:8"
#define SCALABLE 1
#define GROUPS (svcntb() / 16)
#define LOOP_BYTES (4 * 20)
#define LOOP_OPS (4 * 64)

/* The scale of its group in every lane: lane i takes element i / 4 of what lies at `from`. */
AB_INLINE svfloat32_t spread(const float *from)
{
    const svbool_t groups = svwhilelt_b32_u64(0, svcntb() / 16);
    return svtbl_f32(svld1_f32(groups, from), svlsr_n_u32_x(svptrue_b32(), svindex_u32(0, 1), 2));
}

AB_INLINE svfloat32_t step(svfloat32_t sum, const struct gemv *g, size_t at, svint8_t x_low,
                           svint8_t x_high, svfloat32_t x_scale)
{
    const svbool_t all = svptrue_b8();
    const svuint8_t byte = svld1_u8(all, g->nibbles + at * 16);
    const svint8_t low = svsub_n_s8_x(all, svreinterpret_s8(svand_n_u8_x(all, byte, 15)), 8);
    const svint8_t high = svsub_n_s8_x(all, svreinterpret_s8(svlsr_n_u8_x(all, byte, 4)), 8);
    const svint32_t dots = svdot_s32(svdot_s32(svdup_s32(0), low, x_low), high, x_high);
    const svfloat32_t scale = svmul_f32_x(all, spread(g->scales + at), x_scale);
    return svmla_f32_x(all, sum, svcvt_f32_s32_x(all, dots), scale);
}

static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4])
{
    const svbool_t all = svptrue_b8();
    const size_t groups = svcntb() / 16;
    svfloat32_t s0 = svdup_f32(0), s1 = s0, s2 = s0, s3 = s0;
    /* x holds low and high halves of each group by turns, 16 bytes each: take them apart */
    const svuint64_t pair = svindex_u64(0, 1);
    const svuint64_t half = svlsr_n_u64_x(all, pair, 1), odd = svand_n_u64_x(all, pair, 1);
    const svuint64_t index = svadd_u64_x(all, svlsl_n_u64_x(all, half, 2), odd);
    for (size_t i = 0; i < turns; i++) {
        const size_t at = i * groups;
        const int64_t *x = (const int64_t *)(const void *)(g->x + at * AB_GROUP);
        const svint8_t low = svreinterpret_s8(svld1_gather_u64index_s64(all, x, index));
        const svint8_t high = svreinterpret_s8(svld1_gather_u64index_s64(all, x + 2, index));
        const svfloat32_t scale = spread(g->x_scales + at);
        s0 = step(s0, g, row[0] * g->groups + at, low, high, scale);
        s1 = step(s1, g, row[1] * g->groups + at, low, high, scale);
        s2 = step(s2, g, row[2] * g->groups + at, low, high, scale);
        s3 = step(s3, g, row[3] * g->groups + at, low, high, scale);
    }
    sums[0] = svaddv_f32(all, s0);
    sums[1] = svaddv_f32(all, s1);
    sums[2] = svaddv_f32(all, s2);
    sums[3] = svaddv_f32(all, s3);
}

#include "../gemv.h"
