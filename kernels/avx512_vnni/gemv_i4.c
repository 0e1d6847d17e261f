// arch: x86_64
// flags: -mavx512f -mavx512bw -mavx512vnni
// Int4 weights by VPDPBUSD on 64-byte registers: four groups of a row in each.
#include <immintrin.h>

#include "../gemv_layout.h"

#define AB_ISA "avx512_vnni"
#define AB_FEATURES "avx512f avx512bw avx512_vnni"
#define LOOP "vpdpbusd:8"
#define SCALABLE 0
#define GROUPS 4
#define LOOP_BYTES (4 * 4 * 20)
#define LOOP_OPS (4 * 4 * 64)

/* Four neighbouring floats, each in the four lanes of its group. */
AB_INLINE __m512 spread(const float *from)
{
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(_mm_loadu_ps(from)));
}

AB_INLINE __m512 step(__m512 sum, const struct gemv *g, size_t at, __m512i x_low, __m512i x_high,
                      __m512 x_scale, __m512 offset)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i byte = _mm512_loadu_si512(g->nibbles + at * 16);
    const __m512i low = _mm512_and_si512(byte, nibble);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi16(byte, 4), nibble);
    __m512i dots = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x_low);
    dots = _mm512_dpbusd_epi32(dots, high, x_high);
    const __m512 part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), x_scale, offset);
    return _mm512_fmadd_ps(part, spread(g->scales + at), sum);
}

static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4])
{
    const __m512i halves_low = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    const __m512i halves_high = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    const size_t r0 = row[0] * g->groups, r1 = row[1] * g->groups;
    const size_t r2 = row[2] * g->groups, r3 = row[3] * g->groups;
    for (size_t i = 0; i < turns; i++) {
        const size_t at = i * GROUPS;
        const __m512i one = _mm512_loadu_si512(g->x + at * AB_GROUP);
        const __m512i two = _mm512_loadu_si512(g->x + at * AB_GROUP + 64);
        const __m512i low = _mm512_permutex2var_epi64(one, halves_low, two);
        const __m512i high = _mm512_permutex2var_epi64(one, halves_high, two);
        const __m512 scale = spread(g->x_scales + at);
        const __m512 offset = _mm512_maskz_mov_ps(0x1111, spread(g->offsets + at));
        s0 = step(s0, g, r0 + at, low, high, scale, offset);
        s1 = step(s1, g, r1 + at, low, high, scale, offset);
        s2 = step(s2, g, r2 + at, low, high, scale, offset);
        s3 = step(s3, g, r3 + at, low, high, scale, offset);
    }
    sums[0] = _mm512_reduce_add_ps(s0);
    sums[1] = _mm512_reduce_add_ps(s1);
    sums[2] = _mm512_reduce_add_ps(s2);
    sums[3] = _mm512_reduce_add_ps(s3);
}

#include "../gemv.h"
