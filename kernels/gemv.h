/* One token's product with int4 weights, as decode does it: y = W x, W of n rows by k columns.
 *
 * Weights lie row by row in groups of 32: 16 bytes of nibbles (byte i holds weights i and i + 16,
 * each plus 8) and one float32 scale, scales in an array of their own after all nibbles. The
 * activations are int8 with one float32 scale per group. The bytes counted are the weights'.
 * Four rows far apart go at once: four streams, and each load of x serves four times.
 *
 * A file defines its names, LOOP, LOOP_BYTES, GROUPS (how many groups a turn takes), LOW (least x)
 * and before including this
 *     static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4]);
 */
#include "gemv_layout.h"

enum { DEFAULT_COLUMNS = 2048, LEAST_COLUMNS = 512 };

/* k is a multiple of LEAST_COLUMNS, so that every kernel's turn divides it. */
static size_t space(struct ab_work *w, int which)
{
    if (!w->k)
        w->k = DEFAULT_COLUMNS;
    w->k = ab_round_up(w->k, LEAST_COLUMNS);
    if (!w->n)
        w->n = w->bytes / (w->k / 2 + w->k / AB_GROUP * sizeof(float));
    if (which == 0)
        return w->n * (w->k / 2 + w->k / AB_GROUP * sizeof(float));
    if (which == 1) /* x; its scales; eight times the sum of each group, scaled */
        return w->k + 2 * (w->k / AB_GROUP) * sizeof(float);
    return w->n * sizeof(float);
}

static struct gemv layout(const struct ab_work *w)
{
    const size_t groups = w->k / AB_GROUP;
    float *x_scales = (float *)(void *)(w->b + w->k);
    return (struct gemv){
        .nibbles = w->a,
        .scales = (const float *)(const void *)(w->a + w->n * w->k / 2),
        .x = (const int8_t *)w->b,
        .x_scales = x_scales,
        .offsets = x_scales + groups,
        .groups = groups,
    };
}

static const char *prepare(struct ab_work *w)
{
    const size_t groups = w->k / AB_GROUP;
    const struct gemv g = layout(w);
    float *scales = (float *)(uintptr_t)g.scales, *x_scales = (float *)(uintptr_t)g.x_scales;
    float *offsets = (float *)(uintptr_t)g.offsets;
    uint64_t state = 17;
    for (size_t i = 0; i < w->n * w->k / 2; i += 8) { /* k / 2 is a multiple of 8 */
        const uint64_t word = ab_random(&state);
        memcpy(w->a + i, &word, 8);
    }
    for (size_t i = 0; i < w->n * groups; i++)
        scales[i] = (float)(1 + (ab_random(&state) & 3)) / 4;
    ab_fill_i8(w->b, w->k, -127, 19);
    for (size_t i = 0; i < groups; i++) {
        int sum = 0;
        for (size_t j = 0; j < AB_GROUP; j++)
            sum += g.x[i * AB_GROUP + j];
        x_scales[i] = (float)(1 + (ab_random(&state) & 3)) / 4;
        offsets[i] = -8 * (float)sum * x_scales[i];
    }
    return NULL;
}

static void run(struct ab_work *w, uint64_t rounds)
{
    const struct gemv g = layout(w);
    float *y = (float *)(void *)w->c;
    const size_t quarter = w->n / 4;
    for (uint64_t round = 0; round < rounds; round++) {
        AB_FENCE();
        for (size_t i = 0; i < quarter; i++) {
            const size_t row[4] = {i, i + quarter, i + 2 * quarter, i + 3 * quarter};
            float sums[4];
            rows(&g, row, g.groups / GROUPS, sums);
            for (int j = 0; j < 4; j++)
                y[row[j]] = sums[j];
        }
        for (size_t i = 4 * quarter; i < w->n; i++) {
            const size_t row[4] = {i, i, i, i};
            float sums[4];
            rows(&g, row, g.groups / GROUPS, sums);
            y[i] = sums[0];
        }
    }
}

static struct ab_amount amount(const struct ab_work *w)
{
    return (struct ab_amount){
        .bytes = w->n * (w->k / 2 + w->k / AB_GROUP * sizeof(float)),
        .ops = 2 * w->n * w->k,
    };
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    const struct gemv g = layout(w);
    for (size_t i = 0; rounds && i < w->n; i++) {
        const double want = ab_ref_gemv(g.nibbles + i * w->k / 2, g.scales + i * g.groups, g.x,
                                        g.x_scales, g.groups);
        float got;
        memcpy(&got, w->c + 4 * i, 4);
        if (got != want) /* scales are quarters, so that float32 sums are exact */
            return 1;
    }
    return 0;
}

static const struct ab_kernel kernel = {
    .name = AB_ISA "/gemv_i4",
    .isa = AB_ISA,
    .operation = "gemv",
    .type = "i4",
    .features = AB_FEATURES,
    .unit = "bytes/s",
    .scalable = SCALABLE,
    .loop_bytes = LOOP_BYTES,
    .loop_ops = LOOP_OPS,
    .loop = LOOP,
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
