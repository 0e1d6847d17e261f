// Int4 weights in plain C, group by group.
#include "../gemv_layout.h"

#define AB_ISA "portable"
#define AB_FEATURES ""
#define LOOP ""
#define SCALABLE 0
#define GROUPS 1
#define LOOP_BYTES (4 * 20)
#define LOOP_OPS (4 * 64)

AB_INLINE float group(const unsigned char *nibbles, const int8_t *x)
{
    int sum = 0;
    for (size_t i = 0; i < 16; i++)
        sum += ((nibbles[i] & 15) - 8) * x[i] + ((nibbles[i] >> 4) - 8) * x[i + 16];
    return (float)sum;
}

static void rows(const struct gemv *g, const size_t row[4], size_t turns, float sums[4])
{
    for (int j = 0; j < 4; j++)
        sums[j] = 0;
    for (size_t i = 0; i < turns; i++)
        for (int j = 0; j < 4; j++) {
            const size_t at = row[j] * g->groups + i;
            sums[j] += group(g->nibbles + at * 16, g->x + i * AB_GROUP) * g->scales[at] * g->x_scales[i];
        }
}

#include "../gemv.h"
