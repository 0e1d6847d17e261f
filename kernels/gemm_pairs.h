/* A tile of four pairs of rows by six vectors of column pairs, for the 2x2 matrix instructions
 * of Arm: each 16 bytes of a sum hold two rows by two columns.
 * Needs vec, acc_t, VEC_BYTES, LOAD, LOAD_16, STORE, ZERO, ACC(acc, a, b), OPS. */
#define MR 8
#define NR (12 * (VEC_BYTES / 16))
#define A_UNIT (8 / (int)ab_type_bytes(IN))
#define B_UNIT A_UNIT
#define K_MULTIPLE A_UNIT
#define C_AT(row, column)                                                                          \
    (((row) / 2 * 6 + (column) / 2 / (VEC_BYTES / 16)) * (VEC_BYTES / 4) +                         \
     (column) / 2 % (VEC_BYTES / 16) * 4 + (row) % 2 * 2 + (column) % 2)
#define LOOP_OPS ((uint64_t)24 * OPS)
#define BEGIN() (void)0
#define FINISH() (void)0
#define COLUMNS(M) M(0) M(1) M(2) M(3) M(4) M(5)

#define START(v) acc_t p##v = ZERO(), q##v = ZERO(), r##v = ZERO(), s##v = ZERO();
#define TURN(v)                                                                                    \
    {                                                                                              \
        const vec column = LOAD(b + (v) * VEC_BYTES);                                              \
        p##v = ACC(p##v, a0, column);                                                              \
        q##v = ACC(q##v, a1, column);                                                              \
        r##v = ACC(r##v, a2, column);                                                              \
        s##v = ACC(s##v, a3, column);                                                              \
    }
#define END(v)                                                                                     \
    STORE(c + (v) * VEC_BYTES, p##v);                                                              \
    STORE(c + (6 + (v)) * VEC_BYTES, q##v);                                                        \
    STORE(c + (12 + (v)) * VEC_BYTES, r##v);                                                       \
    STORE(c + (18 + (v)) * VEC_BYTES, s##v);

static void tile(const unsigned char *a, const unsigned char *b, size_t k, unsigned char *c)
{
    COLUMNS(START)
    for (size_t left = k / (size_t)A_UNIT; left; left--) {
        const vec a0 = LOAD_16(a), a1 = LOAD_16(a + 16), a2 = LOAD_16(a + 32), a3 = LOAD_16(a + 48);
        COLUMNS(TURN)
        a += MR * 8;
        b += 6 * VEC_BYTES;
    }
    COLUMNS(END)
}

#include "gemm.h"
