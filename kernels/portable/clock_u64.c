// The running core's clock: a chain of additions of registers, one cycle each.
// Every server core of both architectures has a latency of one for it; additions of constants
// would not do, since some cores fold those away.
#include "../armbench.h"

enum { TURNS = 64, CHAIN = 16 };

static size_t space(struct ab_work *w, int which)
{
    (void)w, (void)which;
    return 0;
}

static const char *prepare(struct ab_work *w)
{
    w->result = 0;
    return NULL;
}

#define FOUR(x) x x x x
#if defined(__x86_64__)
#define STEP "add %1, %0\n\t"
#elif defined(__aarch64__)
#define STEP "add %0, %0, %1\n\t"
#endif

static void run(struct ab_work *w, uint64_t rounds)
{
    uint64_t sum = w->result, step = 3;
    __asm__ volatile("" : "+r"(step));
    for (uint64_t i = 0; i < rounds * TURNS; i++) {
#ifdef STEP
        __asm__ volatile(FOUR(FOUR(STEP)) : "+r"(sum) : "r"(step));
#else
        for (int j = 0; j < CHAIN; j++) {
            sum += step;
            __asm__ volatile("" : "+r"(sum));
        }
#endif
    }
    w->result = sum;
}

static struct ab_amount amount(const struct ab_work *w)
{
    (void)w;
    return (struct ab_amount){.ops = TURNS * CHAIN};
}

static int check(const struct ab_work *w, uint64_t rounds)
{
    return w->result != rounds * TURNS * CHAIN * 3;
}

static const struct ab_kernel kernel = {
    .name = "portable/clock_u64",
    .isa = "portable",
    .operation = "clock",
    .type = "u64",
    .features = "",
    .unit = "Hz",
    .loop_ops = CHAIN,
    .loop = "", /* one chain of 16, and what counts the turns is an addition too */
    .space = space,
    .prepare = prepare,
    .amount = amount,
    .run = run,
    .check = check,
};
AB_REGISTER(kernel);
