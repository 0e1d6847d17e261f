/* The C ABI of armbench's kernels: what a kernel says of itself, and how it is called.
 *
 * A kernel is one file, kernels/<isa>/<operation>_<type>.c, that registers one descriptor with
 * AB_REGISTER. Two comments at its head tell the build what it needs:
 *     // arch: x86_64            the machine it is for; absent: all
 *     // flags: -mavx512f        compiler flags of this file alone
 * Nothing calls a kernel before every feature it names is seen in /proc/cpuinfo.
 */
#ifndef ARMBENCH_H
#define ARMBENCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AB_ABI 1

/* What one thread works on. The driver owns the buffers; a, b and c do not overlap. */
struct ab_work {
    unsigned char *a, *b, *c;
    size_t bytes;         /* of each array a memory kernel uses; else what `space` asked for */
    size_t m, n, k;       /* shape of a matrix kernel */
    unsigned streams;     /* concurrent runs through memory: 1, 2, 4 or 8 */
    unsigned ahead;       /* bytes to prefetch ahead; 0: leave it to the hardware */
    unsigned nontemporal; /* stores that bypass the caches, where the ISA has them */
    uint64_t result;      /* what the kernel computed, if that is one word */
};

/* What one round of a kernel does. */
struct ab_amount {
    uint64_t bytes, ops;
};

struct ab_kernel {
    const char *name;      /* avx512/read_u64 */
    const char *isa;       /* avx512 */
    const char *operation; /* read, copy, triad, write, latency, clock, fma, dot, mmla, gemm, gemv */
    const char *type;      /* f32, bf16, i8, i4, ... */
    const char *features;  /* all that it needs, as the Linux kernel spells them, by spaces */
    const char *unit;      /* bytes/s, ops/s, s, Hz: what the driver makes of the amounts */
    unsigned arrays;       /* arrays of a memory kernel, each `bytes` long; else 0 */
    unsigned tunable;      /* AB_STREAMS | AB_AHEAD | AB_NONTEMPORAL: what of ab_work it heeds */
    unsigned scalable;     /* 1: the three below are per 16 bytes of vector length */
    uint64_t loop_bytes;   /* bytes that one turn of the innermost loop reads or writes */
    uint64_t loop_ops;     /* operations of one turn, a multiply-add being two */
    const char *loop;      /* the instruction that does the work and its count in one turn */
    size_t (*space)(struct ab_work *, int which);         /* bytes of a (0), b (1), c (2) */
    const char *(*prepare)(struct ab_work *);             /* lay out operands; NULL, or why not */
    struct ab_amount (*amount)(const struct ab_work *);   /* of one round */
    void (*run)(struct ab_work *, uint64_t rounds);
    int (*check)(const struct ab_work *, uint64_t rounds); /* after prepare and run: 0 if right */
};

enum { AB_STREAMS = 1, AB_AHEAD = 2, AB_NONTEMPORAL = 4 };

/* Descriptors lie side by side in a section of their own: to add a file is to register it. */
#define AB_REGISTER(kernel)                                                                        \
    __attribute__((section("ab_kernels"), used)) static const struct ab_kernel *const registered = \
        &(kernel)

/* All kernels of the library, for this architecture; call none whose features are not there. */
const struct ab_kernel *const *ab_kernels(size_t *count);

#define AB_INLINE static inline __attribute__((always_inline))
#define AB_FENCE() __asm__ volatile("" ::: "memory")

#if defined(__x86_64__)
#define AB_OPAQUE(v) __asm__ volatile("" : "+v"(v)) /* the compiler forgets what v holds */
#elif defined(__aarch64__)
#define AB_OPAQUE(v) __asm__ volatile("" : "+w"(v))
#else
#define AB_OPAQUE(v) __asm__ volatile("" : "+m"(v))
#endif

/* ---- portable answers: reference.c, compiled without any kernel's flags, never inlined ---- */

uint64_t ab_random(uint64_t *state);
uint16_t ab_to_bf16(float value);
float ab_from_bf16(uint16_t value);
void ab_fill_doubles(unsigned char *to, size_t bytes, uint64_t seed); /* small whole numbers */
void ab_fill_i8(unsigned char *to, size_t count, int low, uint64_t seed); /* low..127 */
void ab_fill_i16(unsigned char *to, size_t count, uint64_t seed);
void ab_fill_f32(unsigned char *to, size_t count, uint64_t seed); /* whole, -4..4 */
void ab_fill_bf16(unsigned char *to, size_t count, uint64_t seed);

uint64_t ab_ref_xor(const unsigned char *from, size_t bytes);
int ab_ref_copy(const unsigned char *from, const unsigned char *to, size_t bytes);
int ab_ref_triad(const unsigned char *a, const unsigned char *b, const unsigned char *c, size_t n);
int ab_ref_write(const unsigned char *to, size_t bytes);

/* How the lanes of a register kernel multiply: the increment that one turn adds to a lane. */
enum ab_lanes {
    AB_LANES_F32,       /* f32 += f32 * f32 */
    AB_LANES_BF16_DOT,  /* f32 += two products */
    AB_LANES_I8_DOT,    /* i32 += four products */
    AB_LANES_I16_DOT,   /* i32 += two products */
    AB_LANES_BF16_MMLA, /* each 16 bytes: 2x4 times 4x2 */
    AB_LANES_I8_MMLA,   /* each 16 bytes: 2x8 times 8x2 */
};
int ab_ref_lanes(enum ab_lanes kind, const unsigned char *x, const unsigned char *y,
                 const unsigned char *sum, size_t vector_bytes, uint64_t rounds);

/* Packed operands of a matrix kernel: blocks of `unit` k's, then lines, then the k's inside. */
enum ab_type { AB_F32, AB_BF16, AB_I8 };
size_t ab_type_bytes(enum ab_type type);
void ab_pack(unsigned char *to, enum ab_type type, size_t lines, size_t k, size_t panel,
             size_t unit, size_t k_multiple, int low, uint64_t seed);
double ab_packed(const unsigned char *from, enum ab_type type, size_t line, size_t k,
                 size_t panel, size_t unit, size_t k_padded);

/* int4 weights by groups of 32 (a byte holds weights i and i+16 of its group, each less 8) */
enum { AB_GROUP = 32 };
double ab_ref_gemv(const unsigned char *nibbles, const float *scales, const int8_t *x,
                   const float *x_scales, size_t groups);

#define AB_TRIAD_FACTOR 3.0
#define AB_PATTERN UINT64_C(0x5a5aa5a53c3cc3c3)

AB_INLINE size_t ab_round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

#endif
