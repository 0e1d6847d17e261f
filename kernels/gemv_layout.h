/* Where the int4 weights and the activations lie: see gemv.h. */
#ifndef ARMBENCH_GEMV_LAYOUT_H
#define ARMBENCH_GEMV_LAYOUT_H

#include "armbench.h"

struct gemv {
    const unsigned char *nibbles; /* 16 bytes per group, row by row */
    const float *scales;          /* one per group, row by row */
    const int8_t *x;
    const float *x_scales; /* one per group */
    const float *offsets;  /* per group: -8 * sum of its x * its scale */
    size_t groups;         /* in a row */
};

#endif
