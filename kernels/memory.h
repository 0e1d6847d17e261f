/* What the memory kernels share: runs through memory, and the ends that no vector fits. */
#ifndef ARMBENCH_MEMORY_H
#define ARMBENCH_MEMORY_H

#include "armbench.h"

/* Bytes of one of `streams` equal runs through `bytes`, each turn taking `step` of a run.
 * Runs an odd number of steps apart do not fall on the same cache sets. */
AB_INLINE size_t ab_run_bytes(size_t bytes, size_t streams, size_t step)
{
    size_t steps = bytes / streams / step;
    if (streams > 1 && steps > 1 && steps % 2 == 0)
        steps--;
    return steps * step;
}

AB_INLINE uint64_t ab_load_word(const unsigned char *from, size_t bytes)
{
    uint64_t word = 0;
    memcpy(&word, from, bytes < 8 ? bytes : 8);
    return word;
}

AB_INLINE uint64_t ab_read_end(const unsigned char *from, size_t bytes)
{
    uint64_t all = 0;
    for (size_t at = 0; at < bytes; at += 8)
        all ^= ab_load_word(from + at, bytes - at);
    return all;
}

AB_INLINE void ab_triad_end(const unsigned char *a, const unsigned char *b, unsigned char *c,
                            size_t bytes)
{
    for (size_t at = 0; at + 8 <= bytes; at += 8) {
        double x, y;
        memcpy(&x, a + at, 8);
        memcpy(&y, b + at, 8);
        x += AB_TRIAD_FACTOR * y;
        memcpy(c + at, &x, 8);
    }
}

AB_INLINE void ab_write_end(unsigned char *to, size_t bytes)
{
    const uint64_t pattern = AB_PATTERN;
    for (size_t at = 0; at < bytes; at += 8)
        memcpy(to + at, &pattern, bytes - at < 8 ? bytes - at : 8);
}

/* Calls CASE with a constant number of streams and constant switches: one loop for each. */
#define AB_PICK_STREAMS(w, CASE, ...)                                                              \
    switch ((w)->streams) {                                                                        \
    case 8:                                                                                        \
        CASE(8, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    case 4:                                                                                        \
        CASE(4, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    case 2:                                                                                        \
        CASE(2, __VA_ARGS__);                                                                      \
        break;                                                                                     \
    default:                                                                                       \
        CASE(1, __VA_ARGS__);                                                                      \
    }

static size_t ab_memory_space(struct ab_work *w, int which)
{
    (void)which;
    return w->bytes;
}

static inline const char *ab_memory_prepare(struct ab_work *w)
{
    ab_fill_doubles(w->a, w->bytes, 1);
    if (w->b)
        ab_fill_doubles(w->b, w->bytes, 2);
    if (w->c)
        memset(w->c, 0, w->bytes);
    return NULL;
}

#define AB_MEMORY_KERNEL(ISA, FEATURES, OPERATION, TYPE, ARRAYS, TUNABLE, SCALABLE, BYTES, LOOP)   \
    static const struct ab_kernel kernel = {                                                       \
        .name = ISA "/" OPERATION "_" TYPE,                                                        \
        .isa = ISA,                                                                                \
        .operation = OPERATION,                                                                    \
        .type = TYPE,                                                                              \
        .features = FEATURES,                                                                      \
        .unit = "bytes/s",                                                                         \
        .arrays = ARRAYS,                                                                          \
        .tunable = TUNABLE,                                                                        \
        .scalable = SCALABLE,                                                                      \
        .loop_bytes = BYTES,                                                                       \
        .loop = LOOP,                                                                              \
        .space = ab_memory_space,                                                                  \
        .prepare = ab_memory_prepare,                                                              \
        .amount = amount,                                                                          \
        .run = run,                                                                                \
        .check = check,                                                                            \
    };                                                                                             \
    AB_REGISTER(kernel)

#endif
