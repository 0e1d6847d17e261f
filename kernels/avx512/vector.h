/* 64-byte vectors of AVX-512F. */
#include <immintrin.h>

#include "../armbench.h"

#define AB_ISA "avx512"
#define AB_FEATURES "avx512f"
#define SCALABLE 0
#define VEC_BYTES 64
#define VEC_DECLARED VEC_BYTES
#define VECTORS 8
#define vec_opaque(v) AB_OPAQUE(v)
#define PAIR 1
#define AB_LOADS "vpxor:8"
#define AB_STORES "vmovdqu|vmovdqa|vmovupd|vmovapd|vmovntdq|vmovntpd:8"

typedef __m512i vec;

AB_INLINE vec vec_zero(void) { return _mm512_setzero_si512(); }
AB_INLINE vec vec_word(uint64_t word) { return _mm512_set1_epi64((long long)word); }
AB_INLINE vec vec_xor(vec a, vec b) { return _mm512_xor_si512(a, b); }
AB_INLINE vec vec_load(const unsigned char *from) { return _mm512_loadu_si512(from); }
AB_INLINE void vec_words(uint64_t *to, vec value) { _mm512_storeu_si512(to, value); }
AB_INLINE void vec_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    _mm512_storeu_si512(to, value);
}
AB_INLINE void vec_bypass_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    _mm512_stream_si512((__m512i *)(void *)to, value);
}
AB_INLINE void vec_copy(unsigned char *to, const unsigned char *from)
{
    _mm512_storeu_si512(to, vec_load(from));
}
AB_INLINE void vec_bypass(unsigned char *to, const unsigned char *from)
{
    _mm512_stream_si512((__m512i *)(void *)to, vec_load(from));
}
AB_INLINE vec vec_triad(const unsigned char *a, const unsigned char *b)
{
    const __m512d factor = _mm512_set1_pd(AB_TRIAD_FACTOR);
    return _mm512_castpd_si512(_mm512_fmadd_pd(factor, _mm512_loadu_pd(b), _mm512_loadu_pd(a)));
}
AB_INLINE void vec_bypass_end(void) { _mm_sfence(); }
