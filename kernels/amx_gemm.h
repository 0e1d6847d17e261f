/* A tile of 32 rows by 32 columns: four sums, two tiles of a and two of b loaded each turn.
 * Needs TDP, IN, OPS, WHOLE, LOW, names. */
#include "amx.h"

#define SCALABLE 0
#define MR 32
#define NR 32
#define A_UNIT (ROW / ab_type_bytes(IN))
#define B_UNIT (4 / ab_type_bytes(IN))
#define K_MULTIPLE A_UNIT
#define C_AT(row, column) ((row) * NR + (column))
#define LOOP_OPS ((uint64_t)4 * OPS)
#define BEGIN() amx_begin()
#define FINISH() _tile_release()
#define ALLOW amx_allow

static void tile(const unsigned char *a, const unsigned char *b, size_t k, unsigned char *c)
{
    const size_t turns = k / A_UNIT;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t i = 0; i < turns; i++) {
        _tile_loadd(4, a + 2 * i * TILE, ROW);
        _tile_loadd(6, b + 2 * i * TILE, 2 * ROW);
        TDP(0, 4, 6);
        _tile_loadd(7, b + 2 * i * TILE + ROW, 2 * ROW);
        TDP(1, 4, 7);
        _tile_loadd(5, a + 2 * i * TILE + TILE, ROW);
        TDP(2, 5, 6);
        TDP(3, 5, 7);
    }
    _tile_stored(0, c, 4 * NR);
    _tile_stored(1, c + ROW, 4 * NR);
    _tile_stored(2, c + 16 * 4 * NR, 4 * NR);
    _tile_stored(3, c + 16 * 4 * NR + ROW, 4 * NR);
}

#include "gemm.h"
