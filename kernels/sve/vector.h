/* Vectors of SVE, whatever their length: declared per 16 bytes of it. */
#include <arm_sve.h>

#include "../armbench.h"

#define AB_ISA "sve"
#define AB_FEATURES "sve"
#define SCALABLE 1
#define VEC_BYTES svcntb()
#define VEC_DECLARED 16
#define VECTORS 8
#define vec_opaque(v) AB_OPAQUE(v)
#define PAIR 1
#define AB_LOADS "ld1d:8"
#define AB_STORES "st1d|stnt1d:8"

typedef svuint64_t vec;

AB_INLINE vec vec_zero(void) { return svdup_u64(0); }
AB_INLINE vec vec_word(uint64_t word) { return svdup_u64(word); }
AB_INLINE vec vec_xor(vec a, vec b) { return sveor_u64_x(svptrue_b64(), a, b); }
AB_INLINE vec vec_load(const unsigned char *from)
{
    return svld1_u64(svptrue_b64(), (const uint64_t *)(const void *)from);
}
AB_INLINE void vec_words(uint64_t *to, vec value) { svst1_u64(svptrue_b64(), to, value); }
AB_INLINE void vec_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    svst1_u64(svptrue_b64(), (uint64_t *)(void *)to, value);
}
AB_INLINE void vec_bypass_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    svstnt1_u64(svptrue_b64(), (uint64_t *)(void *)to, value);
}
AB_INLINE void vec_copy(unsigned char *to, const unsigned char *from)
{
    const vec value = vec_load(from);
    vec_store(to, value, value);
}
AB_INLINE void vec_bypass(unsigned char *to, const unsigned char *from)
{
    const vec value = vec_load(from);
    vec_bypass_store(to, value, value);
}
AB_INLINE vec vec_triad(const unsigned char *a, const unsigned char *b)
{
    const svfloat64_t x = svreinterpret_f64(vec_load(a)), y = svreinterpret_f64(vec_load(b));
    return svreinterpret_u64(svmla_n_f64_x(svptrue_b64(), x, y, AB_TRIAD_FACTOR));
}
AB_INLINE void vec_bypass_end(void) {}
