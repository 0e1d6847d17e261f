/* Sixteen bytes in plain C: the compiler's own vectors, made of whatever the machine has. */
#include "../armbench.h"

#define AB_ISA "portable"
#define AB_FEATURES ""
#define VEC_BYTES 16

typedef int32_t words __attribute__((vector_size(16)));
typedef uint32_t raw __attribute__((vector_size(16)));
typedef float reals __attribute__((vector_size(16)));

AB_INLINE words load_words(const unsigned char *from)
{
    words value;
    memcpy(&value, from, sizeof value);
    return value;
}

AB_INLINE words broadcast_word(const unsigned char *from)
{
    int32_t value;
    memcpy(&value, from, sizeof value);
    return (words){value, value, value, value};
}

AB_INLINE void store_words(unsigned char *to, words value) { memcpy(to, &value, sizeof value); }
AB_INLINE void store_reals(unsigned char *to, reals value) { memcpy(to, &value, sizeof value); }

/* acc + x * y of float32 */
AB_INLINE reals fma_f32(reals acc, words x, words y) { return acc + (reals)x * (reals)y; }

/* acc + the two bfloat16 products of each word */
AB_INLINE reals dot_bf16(reals acc, words x, words y)
{
    const raw high = {0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000};
    acc += (reals)((raw)x << 16) * (reals)((raw)y << 16);
    return acc + (reals)((raw)x & high) * (reals)((raw)y & high);
}

AB_INLINE words byte_of(words x, int i) { return (words)((raw)x << (24 - 8 * i)) >> 24; }
AB_INLINE words half_of(words x, int i) { return (words)((raw)x << (16 - 16 * i)) >> 16; }

/* acc + the four int8 products of each word; sums wrap */
AB_INLINE words dot_i8(words acc, words x, words y)
{
    raw sum = (raw)acc;
    for (int i = 0; i < 4; i++)
        sum += (raw)byte_of(x, i) * (raw)byte_of(y, i);
    return (words)sum;
}

/* acc + the two int16 products of each word; sums wrap */
AB_INLINE words dot_i16(words acc, words x, words y)
{
    return (words)((raw)acc + (raw)half_of(x, 0) * (raw)half_of(y, 0) +
                   (raw)half_of(x, 1) * (raw)half_of(y, 1));
}
