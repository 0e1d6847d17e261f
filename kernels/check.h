/* Holds a kernel against the portable answer at many shapes. */
#ifndef ARMBENCH_CHECK_H
#define ARMBENCH_CHECK_H

#include "armbench.h"

/* NULL if every answer is right, else what went wrong, in a buffer of the caller's. */
const char *ab_check(const struct ab_kernel *kernel, char *words, size_t size);

#endif
