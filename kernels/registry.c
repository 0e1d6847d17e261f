/* The kernels of this library: their descriptors lie side by side in one section. */
#include "armbench.h"

extern const struct ab_kernel *const __start_ab_kernels[], *const __stop_ab_kernels[];

const struct ab_kernel *const *ab_kernels(size_t *count)
{
    *count = (size_t)(__stop_ab_kernels - __start_ab_kernels);
    return __start_ab_kernels;
}
