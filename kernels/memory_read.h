/* Read: the exclusive or of every word. Include after the vector.h of an ISA. */
#include "memory.h"

/* Eight accumulators by name: arrays of them would be kept in memory. */
#define EIGHT(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define START(i) vec all##i = vec_zero();
#define TAKE(i)                                                                                    \
    all##i = vec_xor(all##i, vec_load(from[(block + i) / each] + at + (block + i) % each * VEC_BYTES));
#define HOLD(i) vec_opaque(all##i);

AB_INLINE uint64_t read_runs(const struct ab_work *w, uint64_t rounds, const size_t streams,
                             const int prefetch)
{
    const size_t each = VECTORS / streams, step = each * VEC_BYTES;
    const size_t run_bytes = ab_run_bytes(w->bytes, streams, step), ahead = w->ahead;
    const unsigned char *from[8];
    uint64_t result = 0, words[32]; /* the longest SVE vector */
    EIGHT(START)
    for (size_t s = 0; s < 8; s++)
        from[s] = w->a + (s < streams ? s : 0) * run_bytes;
    for (uint64_t round = 0; round < rounds; round++) {
        AB_FENCE();
        for (size_t at = 0; at < run_bytes; at += step) {
            if (prefetch)
#pragma GCC unroll 8
                for (size_t s = 0; s < streams; s++)
#pragma GCC unroll 8
                    for (size_t line = 0; line < each * VEC_DECLARED; line += 64)
                        __builtin_prefetch(from[s] + at + ahead + line);
#pragma GCC unroll 4
            for (size_t block = 0; block < VECTORS; block += 8) {
                EIGHT(TAKE)
            }
            EIGHT(HOLD)
        }
        result ^= ab_read_end(w->a + streams * run_bytes, w->bytes - streams * run_bytes);
    }
    all0 = vec_xor(vec_xor(vec_xor(all0, all1), vec_xor(all2, all3)),
                   vec_xor(vec_xor(all4, all5), vec_xor(all6, all7)));
    vec_words(words, all0);
    for (size_t i = 0; i < VEC_BYTES / 8; i++)
        result ^= words[i];
    return result;
}

static void run(struct ab_work *w, uint64_t rounds)
{
#define CASE(streams, ahead)                                                                       \
    w->result = ahead ? read_runs(w, rounds, streams, 1) : read_runs(w, rounds, streams, 0)
    AB_PICK_STREAMS(w, CASE, w->ahead)
}

static struct ab_amount amount(const struct ab_work *w)
{
    return (struct ab_amount){.bytes = w->bytes};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    return w->result != (rounds % 2 ? ab_ref_xor(w->a, w->bytes) : 0);
}

AB_MEMORY_KERNEL(AB_ISA, AB_FEATURES, "read", "u64", 1, AB_STREAMS | AB_AHEAD, SCALABLE,
                 VECTORS * VEC_DECLARED, AB_LOADS);
