/* Matrix times matrix from packed operands that fit the second cache: what a good library could
 * reach, packing left out. c = a * b with a of m rows, b of n columns, k products each.
 *
 * A file defines IN (enum ab_type), WHOLE (1: sums are int32), MR and NR (lines of a tile),
 * A_UNIT and B_UNIT (k's that lie together), K_MULTIPLE, LOW (least int8 of a), C_AT(row, column)
 * (where a tile keeps that sum), LOOP_OPS, its names, and before including this
 *     static void tile(const unsigned char *a, const unsigned char *b, size_t k, unsigned char *c);
 */
#include "armbench.h"

enum { DEFAULT_M = 192, DEFAULT_N = 192, DEFAULT_K = 256 };

static size_t padded_k(const struct ab_work *w) { return ab_round_up(w->k, K_MULTIPLE); }

static size_t space(struct ab_work *w, int which)
{
    if (!w->m && !w->n && !w->k)
        w->m = DEFAULT_M, w->n = DEFAULT_N, w->k = DEFAULT_K;
    if (which == 2)
        return ab_round_up(w->m, MR) * ab_round_up(w->n, NR) * 4;
    return (which ? ab_round_up(w->n, NR) : ab_round_up(w->m, MR)) * padded_k(w) *
           ab_type_bytes(IN);
}

static const char *prepare(struct ab_work *w)
{
#ifdef ALLOW
    const char *reason = ALLOW();
    if (reason)
        return reason;
#endif
    ab_pack(w->a, IN, w->m, w->k, MR, A_UNIT, K_MULTIPLE, LOW, 11);
    ab_pack(w->b, IN, w->n, w->k, NR, B_UNIT, K_MULTIPLE, -127, 13);
    return NULL;
}

static void run(struct ab_work *w, uint64_t rounds)
{
    const size_t k = padded_k(w), width = ab_type_bytes(IN), tile_bytes = (size_t)MR * NR * 4;
    BEGIN();
    for (uint64_t round = 0; round < rounds; round++) {
        unsigned char *c = w->c;
        for (size_t column = 0; column < w->n; column += NR)
            for (size_t row = 0; row < w->m; row += MR, c += tile_bytes)
                tile(w->a + row * k * width, w->b + column * k * width, k, c);
        AB_FENCE();
    }
    FINISH();
}

static struct ab_amount amount(const struct ab_work *w)
{
    const uint64_t each = ab_type_bytes(IN);
    return (struct ab_amount){
        .bytes = (w->m * w->k + w->k * w->n) * each + w->m * w->n * 4,
        .ops = 2 * w->m * w->n * w->k,
    };
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    const size_t k = padded_k(w), tiles = ab_round_up(w->m, MR) / MR;
    for (size_t row = 0; rounds && row < w->m; row++)
        for (size_t column = 0; column < w->n; column++) {
            const size_t at = (column / NR * tiles + row / MR) * MR * NR + C_AT(row % MR, column % NR);
            double want = 0;
            float real;
            int32_t whole;
            for (size_t i = 0; i < w->k; i++)
                want += ab_packed(w->a, IN, row, i, MR, A_UNIT, k) *
                        ab_packed(w->b, IN, column, i, NR, B_UNIT, k);
            memcpy(&real, w->c + 4 * at, 4);
            memcpy(&whole, w->c + 4 * at, 4);
            if ((WHOLE ? (double)whole : (double)real) != want)
                return 1;
        }
    return 0;
}

static const struct ab_kernel kernel = {
    .name = AB_ISA "/gemm_" TYPE,
    .isa = AB_ISA,
    .operation = "gemm",
    .type = TYPE,
    .features = AB_FEATURES,
    .unit = "ops/s",
    .scalable = SCALABLE,
    .loop_ops = LOOP_OPS,
    .loop = LOOP,
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
