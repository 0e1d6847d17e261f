// Latency of dependent loads: one cycle through every line of a, in random order.
#include "../armbench.h"

enum { LINE = 64 };

static size_t space(struct ab_work *w, int which)
{
    (void)which;
    return w->bytes;
}

static size_t *slot(const struct ab_work *w, size_t line)
{
    return (size_t *)(void *)(w->a + line * LINE);
}

/* Sattolo's shuffle: a permutation that is one single cycle, so that every line is visited. */
static const char *prepare(struct ab_work *w)
{
    const size_t lines = w->bytes / LINE;
    uint64_t state = 3;
    w->n = 0; /* where the walk stands */
    w->result = 0;
    if ((uintptr_t)w->a % sizeof(size_t))
        return "the array is not aligned to a word";
    for (size_t i = 0; i < lines; i++)
        *slot(w, i) = i;
    for (size_t i = lines; i > 1; i--) {
        const size_t j = ab_random(&state) % (i - 1), kept = *slot(w, i - 1);
        *slot(w, i - 1) = *slot(w, j);
        *slot(w, j) = kept;
    }
    return NULL;
}

/* One round is 64 loads, so that a round is short whatever the array. */
static void run(struct ab_work *w, uint64_t rounds)
{
    size_t at = w->n;
    if (w->bytes >= LINE)
        for (uint64_t i = 0; i < rounds * 64; i++)
            at = *slot(w, at);
    w->n = at;
    w->result = at;
}

static struct ab_amount amount(const struct ab_work *w)
{
    (void)w;
    return (struct ab_amount){.ops = 64};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    const size_t lines = w->bytes / LINE;
    size_t at = 0, visited = 0;
    if (!lines)
        return w->result != 0;
    for (uint64_t i = 0; i < rounds * 64; i++)
        at = *slot(w, at);
    if (at != w->result)
        return 1;
    do { /* and the cycle holds every line */
        at = *slot(w, at);
        visited++;
    } while (at != w->result && visited <= lines);
    return visited != lines;
}

static const struct ab_kernel kernel = {
    .name = "portable/latency_u64",
    .isa = "portable",
    .operation = "latency",
    .type = "u64",
    .features = "",
    .unit = "s",
    .arrays = 1,
    .loop_ops = 1,
    .loop = "",
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
