/* Arithmetic that never leaves the registers: what the execution units can do at best.
 *
 * A file defines vec, VEC_BYTES, SCALABLE, LOAD(p), STORE(p, v), ZERO(), ACC(acc, x, y), SUMS(M)
 * (the accumulators: as many as hide the latency and still fit), COUNT, OPS per vector (of 16
 * bytes where SCALABLE), LANES (how lanes multiply), FILL(to, bytes, seed), and its names.
 * Two x and two y meet in turn; no two neighbours share both. */
#include "armbench.h"

#define SUMS_12(M)                                                                                 \
    M(0, x0, y0) M(1, x1, y0) M(2, x0, y1) M(3, x1, y1) M(4, x0, y0) M(5, x1, y0) M(6, x0, y1)     \
    M(7, x1, y1) M(8, x0, y0) M(9, x1, y0) M(10, x0, y1) M(11, x1, y1)
#define SUMS_10(M)                                                                                 \
    M(0, x0, y0) M(1, x1, y0) M(2, x0, y1) M(3, x1, y1) M(4, x0, y0) M(5, x1, y0) M(6, x0, y1)     \
    M(7, x1, y1) M(8, x0, y0) M(9, x1, y0)
#define SUMS_24(M)                                                                                 \
    SUMS_12(M) M(12, x0, y0) M(13, x1, y0) M(14, x0, y1) M(15, x1, y1) M(16, x0, y0)               \
    M(17, x1, y0) M(18, x0, y1) M(19, x1, y1) M(20, x0, y0) M(21, x1, y0) M(22, x0, y1)            \
    M(23, x1, y1)

#define START(i, x, y)                                                                             \
    acc_t acc##i = ZERO();                                                                         \
    AB_OPAQUE(acc##i); /* else the compiler sees equal sums and computes one of them */
#define TURN(i, x, y) acc##i = ACC(acc##i, x, y);
#define END(i, x, y) STORE(w->c + (i) * VEC_BYTES, acc##i);

static size_t space(struct ab_work *w, int which)
{
    (void)w;
    return which == 2 ? COUNT * VEC_BYTES : 2 * VEC_BYTES;
}

static const char *prepare(struct ab_work *w)
{
    FILL(w->a, 2 * VEC_BYTES, 5);
    FILL(w->b, 2 * VEC_BYTES, 7);
    return NULL;
}

static void run(struct ab_work *w, uint64_t rounds)
{
    vec x0 = LOAD(w->a), x1 = LOAD(w->a + VEC_BYTES);
    vec y0 = LOAD(w->b), y1 = LOAD(w->b + VEC_BYTES);
    SUMS(START)
    for (uint64_t i = 0; i < rounds; i++) {
        SUMS(TURN)
        AB_FENCE();
    }
    SUMS(END)
}

static struct ab_amount amount(const struct ab_work *w)
{
    (void)w;
    return (struct ab_amount){.ops = (uint64_t)COUNT * OPS * (SCALABLE ? VEC_BYTES / 16 : 1)};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    for (size_t i = 0; i < COUNT; i++)
        if (ab_ref_lanes(LANES, w->a + i % 2 * VEC_BYTES, w->b + i / 2 % 2 * VEC_BYTES,
                         w->c + i * VEC_BYTES, VEC_BYTES, rounds))
            return 1;
    return 0;
}

static const struct ab_kernel kernel = {
    .name = AB_ISA "/" OPERATION "_" TYPE,
    .isa = AB_ISA,
    .operation = OPERATION,
    .type = TYPE,
    .features = AB_FEATURES,
    .unit = "ops/s",
    .scalable = SCALABLE,
    .loop_ops = (uint64_t)COUNT * OPS,
    .loop = LOOP,
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
