/* 32-byte vectors of AVX2, with FMA. */
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx2"
#define AB_FEATURES "avx2 fma"
#define SCALABLE 0
#define VEC_BYTES 32
#define VEC_DECLARED VEC_BYTES
#define VECTORS 16
#define vec_opaque(v) AB_OPAQUE(v)
#define PAIR 1
#define AB_LOADS "vpxor:16"
#define AB_STORES "vmovdqu|vmovdqa|vmovupd|vmovapd|vmovntdq|vmovntpd:16"

typedef __m256i vec;

AB_INLINE vec vec_zero(void) { return _mm256_setzero_si256(); }
AB_INLINE vec vec_word(uint64_t word) { return _mm256_set1_epi64x((long long)word); }
AB_INLINE vec vec_xor(vec a, vec b) { return _mm256_xor_si256(a, b); }
AB_INLINE vec vec_load(const unsigned char *from)
{
    return _mm256_loadu_si256((const __m256i_u *)(const void *)from);
}
AB_INLINE void vec_words(uint64_t *to, vec value) { _mm256_storeu_si256((__m256i_u *)(void *)to, value); }
AB_INLINE void vec_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    _mm256_storeu_si256((__m256i_u *)(void *)to, value);
}
AB_INLINE void vec_bypass_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    _mm256_stream_si256((__m256i *)(void *)to, value);
}
AB_INLINE void vec_copy(unsigned char *to, const unsigned char *from)
{
    vec_store(to, vec_load(from), vec_zero());
}
AB_INLINE void vec_bypass(unsigned char *to, const unsigned char *from)
{
    vec_bypass_store(to, vec_load(from), vec_zero());
}
AB_INLINE vec vec_triad(const unsigned char *a, const unsigned char *b)
{
    const __m256d factor = _mm256_set1_pd(AB_TRIAD_FACTOR);
    const __m256d x = _mm256_castsi256_pd(vec_load(a)), y = _mm256_castsi256_pd(vec_load(b));
    return _mm256_castpd_si256(_mm256_fmadd_pd(factor, y, x));
}
AB_INLINE void vec_bypass_end(void) { _mm_sfence(); }
