// Register-resident bf16 in plain C: what a CPU without the extensions would do.
#include "lanes.h"

#define OPERATION "dot"
#define TYPE "bf16"
#define LOOP ""
#define SCALABLE 0
#define COUNT 10
#define SUMS SUMS_10
#define OPS 16
#define LANES AB_LANES_BF16_DOT
#define FILL(to, bytes, seed) ab_fill_bf16(to, (bytes) / 2, seed)
#define LOAD(p) load_words(p)
#define STORE(p, v) store_reals(p, v)
#define ZERO() (acc_t){0}

typedef words vec;
typedef reals acc_t;

AB_INLINE acc_t ACC(acc_t acc, vec x, vec y)
{
    AB_OPAQUE(x); /* else the product is computed once for all turns */
    return dot_bf16(acc, x, y);
}

#include "../register.h"
