// Register-resident i8 in plain C: what a CPU without the extensions would do.
#include "lanes.h"

#define OPERATION "dot"
#define TYPE "i8"
#define LOOP ""
#define SCALABLE 0
#define COUNT 10
#define SUMS SUMS_10
#define OPS 32
#define LANES AB_LANES_I8_DOT
#define FILL(to, bytes, seed) ab_fill_i8(to, bytes, -127, seed)
#define LOAD(p) load_words(p)
#define STORE(p, v) store_words(p, v)
#define ZERO() (acc_t){0}

typedef words vec;
typedef words acc_t;

AB_INLINE acc_t ACC(acc_t acc, vec x, vec y)
{
    AB_OPAQUE(x); /* else the product is computed once for all turns */
    return dot_i8(acc, x, y);
}

#include "../register.h"
