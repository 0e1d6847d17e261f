/* A tile of eight rows by three vectors, on Arm: each row is one lane of a 16-byte vector.
 * Needs vec, acc_t, VEC_BYTES, LOAD, LOAD_16 (the same 16 bytes in each 16 of a vector), STORE,
 * ZERO, ACC_LANE(acc, b, a, lane), OPS (of a vector, of 16 bytes where SCALABLE). */
#define MR 8
#define NR (3 * VEC_BYTES / 4)
#define A_UNIT (4 / (int)ab_type_bytes(IN))
#define B_UNIT A_UNIT
#define K_MULTIPLE A_UNIT
#define C_AT(row, column) ((row) * NR + (column))
#define LOOP_OPS ((uint64_t)24 * OPS)
#define BEGIN() (void)0
#define FINISH() (void)0
#define ROWS(M) M(0, a0, 0) M(1, a0, 1) M(2, a0, 2) M(3, a0, 3) M(4, a1, 0) M(5, a1, 1) M(6, a1, 2) M(7, a1, 3)

#define START(r, a, lane) acc_t x##r = ZERO(), y##r = ZERO(), z##r = ZERO();
#define TURN(r, a, lane)                                                                           \
    x##r = ACC_LANE(x##r, b0, a, lane);                                                            \
    y##r = ACC_LANE(y##r, b1, a, lane);                                                            \
    z##r = ACC_LANE(z##r, b2, a, lane);
#define END(r, a, lane)                                                                            \
    STORE(c + (r) * 3 * VEC_BYTES, x##r);                                                          \
    STORE(c + ((r) * 3 + 1) * VEC_BYTES, y##r);                                                    \
    STORE(c + ((r) * 3 + 2) * VEC_BYTES, z##r);

static void tile(const unsigned char *a, const unsigned char *b, size_t k, unsigned char *c)
{
    ROWS(START)
    for (size_t left = k / (size_t)A_UNIT; left; left--) {
        const vec a0 = LOAD_16(a), a1 = LOAD_16(a + 16);
        const vec b0 = LOAD(b), b1 = LOAD(b + VEC_BYTES), b2 = LOAD(b + 2 * VEC_BYTES);
        ROWS(TURN)
        a += MR * 4;
        b += 3 * VEC_BYTES;
    }
    ROWS(END)
}

#include "gemm.h"
