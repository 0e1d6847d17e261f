// Register-resident f32 in plain C: what a CPU without the extensions would do.
#include "lanes.h"

#define OPERATION "fma"
#define TYPE "f32"
#define LOOP ""
#define SCALABLE 0
#define COUNT 10
#define SUMS SUMS_10
#define OPS 8
#define LANES AB_LANES_F32
#define FILL(to, bytes, seed) ab_fill_f32(to, (bytes) / 4, seed)
#define LOAD(p) load_words(p)
#define STORE(p, v) store_reals(p, v)
#define ZERO() (acc_t){0}

typedef words vec;
typedef reals acc_t;

AB_INLINE acc_t ACC(acc_t acc, vec x, vec y)
{
    AB_OPAQUE(x); /* else the product is computed once for all turns */
    return fma_f32(acc, x, y);
}

#include "../register.h"
