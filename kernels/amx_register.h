/* Four sums of 16x16 from two tiles of a and two of b, all in tiles: AMX at its best.
 * Needs TDP(c, a, b), IN, FILL, OPS (of one instruction), WHOLE, names. */
#include "amx.h"

static size_t space(struct ab_work *w, int which)
{
    (void)w;
    return which == 2 ? 4 * TILE : 2 * TILE;
}

static const char *prepare(struct ab_work *w)
{
    const char *reason = amx_allow();
    if (reason)
        return reason;
    FILL(w->a, 2 * TILE, 5);
    FILL(w->b, 2 * TILE, 7);
    return NULL;
}

static void run(struct ab_work *w, uint64_t rounds)
{
    amx_begin();
    _tile_loadd(4, w->a, ROW);
    _tile_loadd(5, w->a + TILE, ROW);
    _tile_loadd(6, w->b, ROW);
    _tile_loadd(7, w->b + TILE, ROW);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint64_t i = 0; i < rounds; i++) {
        TDP(0, 4, 6);
        TDP(1, 5, 6);
        TDP(2, 4, 7);
        TDP(3, 5, 7);
    }
    _tile_stored(0, w->c, ROW);
    _tile_stored(1, w->c + TILE, ROW);
    _tile_stored(2, w->c + 2 * TILE, ROW);
    _tile_stored(3, w->c + 3 * TILE, ROW);
    _tile_release();
}

static struct ab_amount amount(const struct ab_work *w)
{
    (void)w;
    return (struct ab_amount){.ops = (uint64_t)4 * OPS};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    const size_t width = ab_type_bytes(IN), unit = 4 / width, k = ROW / width;
    for (size_t t = 0; t < 4; t++)
        for (size_t row = 0; row < 16; row++)
            for (size_t column = 0; column < 16; column++) {
                const unsigned char *at = w->c + t * TILE + row * ROW + column * 4;
                double want = 0;
                float real;
                int32_t whole;
                for (size_t i = 0; i < k; i++)
                    want += ab_packed(w->a + t % 2 * TILE, IN, row, i, 16, k, k) *
                            ab_packed(w->b + t / 2 * TILE, IN, column, i, 16, unit, k);
                memcpy(&real, at, 4);
                memcpy(&whole, at, 4);
                if ((WHOLE ? (double)whole : (double)real) != (double)rounds * want)
                    return 1;
            }
    return 0;
}

static const struct ab_kernel kernel = {
    .name = AB_ISA "/mmla_" TYPE,
    .isa = AB_ISA,
    .operation = "mmla",
    .type = TYPE,
    .features = AB_FEATURES,
    .unit = "ops/s",
    .loop_ops = (uint64_t)4 * OPS,
    .loop = LOOP,
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
