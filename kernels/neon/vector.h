/* 16-byte vectors of NEON, stored in pairs (STP, and STNP past the caches). */
#include <arm_neon.h>

#include "../armbench.h"

#define AB_ISA "neon"
#define AB_FEATURES "asimd"
#define SCALABLE 0
#define VEC_BYTES 16
#define VEC_DECLARED VEC_BYTES
#define VECTORS 32
#define vec_opaque(v) AB_OPAQUE(v)
#define PAIR 2
#define AB_LOADS "ldr q|ldp q|ldur q:32"
#define AB_STORES "str q|stp q|stnp q|stur q:32"

typedef uint64x2_t vec;

AB_INLINE vec vec_zero(void) { return vdupq_n_u64(0); }
AB_INLINE vec vec_word(uint64_t word) { return vdupq_n_u64(word); }
AB_INLINE vec vec_xor(vec a, vec b) { return veorq_u64(a, b); }
AB_INLINE vec vec_load(const unsigned char *from) { return vreinterpretq_u64_u8(vld1q_u8(from)); }
AB_INLINE void vec_words(uint64_t *to, vec value) { vst1q_u64(to, value); }
AB_INLINE void vec_store(unsigned char *to, vec one, vec two)
{
    vst1q_u8(to, vreinterpretq_u8_u64(one));
    vst1q_u8(to + 16, vreinterpretq_u8_u64(two));
}
AB_INLINE void vec_bypass_store(unsigned char *to, vec one, vec two)
{
    __asm__ volatile("stnp %q0, %q1, [%2]" : : "w"(one), "w"(two), "r"(to) : "memory");
}
AB_INLINE void vec_copy(unsigned char *to, const unsigned char *from)
{
    vec_store(to, vec_load(from), vec_load(from + 16));
}
AB_INLINE void vec_bypass(unsigned char *to, const unsigned char *from)
{
    vec_bypass_store(to, vec_load(from), vec_load(from + 16));
}
AB_INLINE vec vec_triad(const unsigned char *a, const unsigned char *b)
{
    const float64x2_t x = vreinterpretq_f64_u8(vld1q_u8(a)), y = vreinterpretq_f64_u8(vld1q_u8(b));
    return vreinterpretq_u64_f64(vfmaq_f64(x, y, vdupq_n_f64(AB_TRIAD_FACTOR)));
}
AB_INLINE void vec_bypass_end(void) {}
