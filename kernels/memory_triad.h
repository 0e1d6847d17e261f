/* Triad: c = a + 3 b in doubles. Bytes are counted as STREAM counts them: two reads, one write. */
#include "memory.h"

AB_INLINE void triad_runs(const struct ab_work *w, uint64_t rounds, const size_t streams,
                          const int bypass)
{
    const size_t each = VECTORS / streams, step = each * VEC_BYTES;
    const size_t run_bytes = ab_run_bytes(w->bytes, streams, step), done = streams * run_bytes;
    for (uint64_t round = 0; round < rounds; round++) {
        AB_FENCE();
        for (size_t at = 0; at < run_bytes; at += step) {
#pragma GCC unroll 8
            for (size_t s = 0; s < streams; s++) {
                const size_t here = s * run_bytes + at;
#pragma GCC unroll 32
                for (size_t v = 0; v < each; v += PAIR) {
                    const size_t i = here + v * VEC_BYTES, j = i + (PAIR - 1) * VEC_BYTES;
                    const vec one = vec_triad(w->a + i, w->b + i);
                    const vec two = PAIR == 1 ? one : vec_triad(w->a + j, w->b + j);
                    if (bypass)
                        vec_bypass_store(w->c + i, one, two);
                    else
                        vec_store(w->c + i, one, two);
                }
            }
        }
        ab_triad_end(w->a + done, w->b + done, w->c + done, w->bytes - done);
    }
    vec_bypass_end();
}

static void run(struct ab_work *w, uint64_t rounds)
{
    const int bypass = w->nontemporal && (uintptr_t)w->c % VEC_DECLARED == 0;
#define CASE(streams, bypass)                                                                      \
    bypass ? triad_runs(w, rounds, streams, 1) : triad_runs(w, rounds, streams, 0)
    AB_PICK_STREAMS(w, CASE, bypass)
}

static struct ab_amount amount(const struct ab_work *w)
{
    const uint64_t doubles = w->bytes / 8;
    return (struct ab_amount){.bytes = 24 * doubles, .ops = 2 * doubles};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    return rounds && ab_ref_triad(w->a, w->b, w->c, w->bytes / 8);
}

AB_MEMORY_KERNEL(AB_ISA, AB_FEATURES, "triad", "f64", 3, AB_STREAMS | AB_NONTEMPORAL, SCALABLE,
                 3 * VECTORS * VEC_DECLARED, AB_STORES);
