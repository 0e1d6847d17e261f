/* Copy: b = a. Bytes are counted as STREAM counts them: read once, written once. */
#include "memory.h"

AB_INLINE void copy_runs(const struct ab_work *w, uint64_t rounds, const size_t streams,
                         const int bypass)
{
    const size_t each = VECTORS / streams, step = each * VEC_BYTES;
    const size_t run_bytes = ab_run_bytes(w->bytes, streams, step), done = streams * run_bytes;
    for (uint64_t round = 0; round < rounds; round++) {
        AB_FENCE();
        for (size_t at = 0; at < run_bytes; at += step) {
#pragma GCC unroll 8
            for (size_t s = 0; s < streams; s++) {
                const unsigned char *from = w->a + s * run_bytes + at;
                unsigned char *to = w->b + s * run_bytes + at;
#pragma GCC unroll 32
                for (size_t v = 0; v < each; v += PAIR)
                    if (bypass)
                        vec_bypass(to + v * VEC_BYTES, from + v * VEC_BYTES);
                    else
                        vec_copy(to + v * VEC_BYTES, from + v * VEC_BYTES);
            }
        }
        memcpy(w->b + done, w->a + done, w->bytes - done);
    }
    vec_bypass_end();
}

static void run(struct ab_work *w, uint64_t rounds)
{
    const int bypass = w->nontemporal && (uintptr_t)w->b % VEC_DECLARED == 0;
#define CASE(streams, bypass)                                                                      \
    bypass ? copy_runs(w, rounds, streams, 1) : copy_runs(w, rounds, streams, 0)
    AB_PICK_STREAMS(w, CASE, bypass)
}

static struct ab_amount amount(const struct ab_work *w)
{
    return (struct ab_amount){.bytes = 2 * w->bytes};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    return rounds && ab_ref_copy(w->a, w->b, w->bytes);
}

AB_MEMORY_KERNEL(AB_ISA, AB_FEATURES, "copy", "u64", 2, AB_STREAMS | AB_NONTEMPORAL, SCALABLE,
                 2 * VECTORS * VEC_DECLARED, AB_STORES);
