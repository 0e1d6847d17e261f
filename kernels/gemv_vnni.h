/* Int4 weights by unsigned-by-signed dots on x86: nibbles stay 0..15, and what the missing eight
 * adds is taken off by the offsets of x. Needs DOT(acc, u8, s8) on 32 bytes, names, LOOP. */
#include <immintrin.h>

#include "gemv_layout.h"

#define SCALABLE 0
#define GROUPS 2
#define LOOP_BYTES (4 * 2 * 20)
#define LOOP_OPS (4 * 2 * 64)

AB_INLINE __m256i load_32(const void *from) { return _mm256_loadu_si256((const __m256i_u *)from); }

/* Two neighbouring floats, each in the four lanes of its group. */
AB_INLINE __m256 spread(const float *from)
{
    const __m128 two = _mm_castsi128_ps(_mm_loadl_epi64((const __m128i_u *)(const void *)from));
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(two),
                                    _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

AB_INLINE __m256 step(__m256 sum, const struct gemv *g, size_t at, __m256i x_low, __m256i x_high,
                      __m256 x_scale, __m256 offset)
{
    const __m256i nibble = _mm256_set1_epi8(15), byte = load_32(g->nibbles + at * 16);
    const __m256i low = _mm256_and_si256(byte, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(byte, 4), nibble);
    const __m256i dots = DOT(DOT(_mm256_setzero_si256(), low, x_low), high, x_high);
    const __m256 part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), x_scale, offset);
    return _mm256_fmadd_ps(part, spread(g->scales + at), sum);
}

AB_INLINE float total(__m256 v)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4])
{
    const __m256 first = _mm256_castsi256_ps(_mm256_setr_epi32(-1, 0, 0, 0, -1, 0, 0, 0));
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    const size_t r0 = row[0] * g->groups, r1 = row[1] * g->groups;
    const size_t r2 = row[2] * g->groups, r3 = row[3] * g->groups;
    for (size_t i = 0; i < turns; i++) {
        const size_t at = i * GROUPS;
        const __m256i one = load_32(g->x + at * AB_GROUP), two = load_32(g->x + at * AB_GROUP + 32);
        const __m256i low = _mm256_permute2x128_si256(one, two, 0x20);
        const __m256i high = _mm256_permute2x128_si256(one, two, 0x31);
        const __m256 scale = spread(g->x_scales + at);
        const __m256 offset = _mm256_and_ps(spread(g->offsets + at), first); /* once per group */
        s0 = step(s0, g, r0 + at, low, high, scale, offset);
        s1 = step(s1, g, r1 + at, low, high, scale, offset);
        s2 = step(s2, g, r2 + at, low, high, scale, offset);
        s3 = step(s3, g, r3 + at, low, high, scale, offset);
    }
    sums[0] = total(s0);
    sums[1] = total(s1);
    sums[2] = total(s2);
    sums[3] = total(s3);
}

#include "gemv.h"
