/* A tile of ROWS rows by two vectors: each turn broadcasts four bytes of every row.
 * Needs vec, acc_t, VEC_BYTES, MR, ROWS(M), LOAD, BROADCAST, STORE, ZERO, ACC, OPS (per vector). */
#define SCALABLE 0
#define NR (2 * VEC_BYTES / 4)
#define A_UNIT (4 / (int)ab_type_bytes(IN))
#define B_UNIT A_UNIT
#define K_MULTIPLE A_UNIT
#define C_AT(row, column) ((row) * NR + (column))
#define LOOP_OPS ((uint64_t)MR * 2 * OPS)
#define BEGIN() (void)0
#define FINISH() (void)0
#define ROWS_4(M) M(0) M(1) M(2) M(3)
#define ROWS_6(M) ROWS_4(M) M(4) M(5)
#define ROWS_12(M) ROWS_6(M) M(6) M(7) M(8) M(9) M(10) M(11)

#define START(r) acc_t left##r = ZERO(), right##r = ZERO();
#define TURN(r)                                                                                    \
    {                                                                                              \
        const vec row = BROADCAST(a + (r) * 4);                                                    \
        left##r = ACC(left##r, row, b0);                                                           \
        right##r = ACC(right##r, row, b1);                                                         \
    }
#define END(r)                                                                                     \
    STORE(c + (r) * 2 * VEC_BYTES, left##r);                                                       \
    STORE(c + ((r) * 2 + 1) * VEC_BYTES, right##r);

static void tile(const unsigned char *a, const unsigned char *b, size_t k, unsigned char *c)
{
    ROWS(START)
    for (size_t left = k / (size_t)A_UNIT; left; left--) {
        const vec b0 = LOAD(b), b1 = LOAD(b + VEC_BYTES);
        ROWS(TURN)
        a += MR * 4;
        b += 2 * VEC_BYTES;
    }
    ROWS(END)
}

#include "gemm.h"
