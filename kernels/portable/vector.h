/* One word as the vector: what plain C can say. */
#include "../armbench.h"

#define AB_ISA "portable"
#define AB_FEATURES ""
#define SCALABLE 0
#define VEC_BYTES 8
#define VEC_DECLARED VEC_BYTES
#define VECTORS 16
#define vec_opaque(v) (void)(v)
#define PAIR 1
#define AB_LOADS "" /* what the compiler makes of it is its business */
#define AB_STORES ""

typedef uint64_t vec;

AB_INLINE vec vec_zero(void) { return 0; }
AB_INLINE vec vec_word(uint64_t word) { return word; }
AB_INLINE vec vec_xor(vec a, vec b) { return a ^ b; }
AB_INLINE vec vec_load(const unsigned char *from)
{
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}
AB_INLINE void vec_words(uint64_t *to, vec value) { *to = value; }
AB_INLINE void vec_store(unsigned char *to, vec value, vec same)
{
    (void)same;
    memcpy(to, &value, sizeof value);
}
AB_INLINE void vec_copy(unsigned char *to, const unsigned char *from) { memcpy(to, from, 8); }
AB_INLINE vec vec_triad(const unsigned char *a, const unsigned char *b)
{
    double x, y;
    vec out;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    x += AB_TRIAD_FACTOR * y;
    memcpy(&out, &x, 8);
    return out;
}
#define vec_bypass vec_copy
#define vec_bypass_store vec_store
AB_INLINE void vec_bypass_end(void) {}
