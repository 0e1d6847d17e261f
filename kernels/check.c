/* Every kernel at sizes that no vector divides, at odd addresses, with nothing to do, and with
 * every switch it heeds. Buffers are as long as asked for and no longer, so that a sanitizer sees
 * a byte too far; a guard beyond the end is looked at besides. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

enum { GUARD = 64, GUARD_BYTE = 0xa7 };

struct buffer {
    unsigned char *base, *at;
    size_t bytes;
};

/* `bytes` that begin `offset` after a boundary of 64 and end with a guard. */
static int take(struct buffer *b, size_t bytes, size_t offset)
{
    b->bytes = bytes;
    b->base = aligned_alloc(64, ab_round_up(bytes + offset + GUARD, 64));
    if (!b->base)
        return 1;
    b->at = b->base + offset;
    memset(b->base, 0, bytes + offset);
    memset(b->at + bytes, GUARD_BYTE, GUARD);
    return 0;
}

static int guard_is_broken(const struct buffer *b)
{
    for (size_t i = 0; i < GUARD; i++)
        if (b->at[b->bytes + i] != GUARD_BYTE)
            return 1;
    return 0;
}

static const char *once(const struct ab_kernel *kernel, struct ab_work w, size_t offset,
                        uint64_t rounds)
{
    struct buffer buffers[3] = {{0}};
    const char *wrong = NULL;
    for (int i = 0; i < 3 && !wrong; i++)
        if (take(&buffers[i], kernel->space(&w, i), offset))
            wrong = "no memory";
    if (!wrong) {
        w.a = buffers[0].at;
        w.b = buffers[1].at;
        w.c = buffers[2].at;
        wrong = kernel->prepare(&w);
    }
    if (!wrong) {
        kernel->run(&w, rounds);
        if (kernel->check(&w, rounds))
            wrong = "wrong answer";
        for (int i = 0; i < 3; i++)
            if (guard_is_broken(&buffers[i]))
                wrong = "wrote beyond the end";
    }
    for (int i = 0; i < 3; i++)
        free(buffers[i].base);
    return wrong;
}

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const char *say(char *words, size_t size, const struct ab_work *w, size_t offset,
                       uint64_t rounds, const char *wrong)
{
    snprintf(words, size,
             "%s (bytes %zu, shape %zux%zux%zu, offset %zu, streams %u, ahead %u, "
             "nontemporal %u, rounds %llu)",
             wrong, w->bytes, w->m, w->n, w->k, offset, w->streams, w->ahead, w->nontemporal,
             (unsigned long long)rounds);
    return words;
}

static int heeds(const struct ab_kernel *kernel, unsigned bits)
{
    return (!(bits & 1) || (kernel->tunable & AB_AHEAD)) &&
           (!(bits & 2) || (kernel->tunable & AB_NONTEMPORAL));
}

static const char *memory(const struct ab_kernel *kernel, char *words, size_t size)
{
    static const size_t sizes[] = {0,   1,    7,    8,    63,   64,   65,    511,
                                   512, 1023, 4096, 4109, 8191, 8192, 16385, 100003};
    const int latency = !(kernel->tunable & AB_STREAMS);
    for (size_t i = 0; i < LENGTH(sizes); i++)
        for (size_t offset = 0; offset <= (latency ? 0 : 16); offset += offset ? 11 : 5)
            for (unsigned streams = 1; streams <= (latency ? 1 : 8); streams *= 2)
                for (unsigned bits = 0; bits < 4; bits++) {
                    const struct ab_work w = {.bytes = sizes[i],
                                              .streams = streams,
                                              .ahead = bits & 1 ? 512 : 0,
                                              .nontemporal = bits >> 1};
                    const uint64_t rounds = 1 + (bits + i) % 3;
                    const char *wrong = NULL;
                    if (heeds(kernel, bits))
                        wrong = once(kernel, w, offset, rounds);
                    if (wrong)
                        return say(words, size, &w, offset, rounds, wrong);
                }
    return NULL;
}

static const char *matrices(const struct ab_kernel *kernel, char *words, size_t size)
{
    static const size_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},    {8, 12, 8},   {13, 37, 65},
                                       {33, 33, 129}, {64, 100, 63}, {25, 31, 256}};
    for (size_t i = 0; i < LENGTH(shapes); i++)
        for (uint64_t rounds = 0; rounds <= 2; rounds++) {
            const struct ab_work w = {.m = shapes[i][0], .n = shapes[i][1], .k = shapes[i][2]};
            const char *wrong = once(kernel, w, 0, rounds);
            if (wrong)
                return say(words, size, &w, 0, rounds, wrong);
        }
    return NULL;
}

static const char *vectors(const struct ab_kernel *kernel, char *words, size_t size)
{
    static const size_t shapes[][2] = {{1, 1}, {3, 512}, {4, 513}, {7, 2048}, {29, 1024}};
    for (size_t i = 0; i < LENGTH(shapes); i++)
        for (uint64_t rounds = 0; rounds <= 2; rounds++) {
            const struct ab_work w = {.n = shapes[i][0], .k = shapes[i][1]};
            const char *wrong = once(kernel, w, 0, rounds);
            if (wrong)
                return say(words, size, &w, 0, rounds, wrong);
        }
    return NULL;
}

static const char *registers(const struct ab_kernel *kernel, char *words, size_t size)
{
    static const uint64_t counts[] = {0, 1, 2, 7, 64, 1000};
    for (size_t i = 0; i < LENGTH(counts); i++) {
        const struct ab_work w = {0};
        const char *wrong = once(kernel, w, 0, counts[i]);
        if (wrong)
            return say(words, size, &w, 0, counts[i], wrong);
    }
    return NULL;
}

const char *ab_check(const struct ab_kernel *kernel, char *words, size_t size)
{
    if (kernel->arrays)
        return memory(kernel, words, size);
    if (!strcmp(kernel->operation, "gemm"))
        return matrices(kernel, words, size);
    if (!strcmp(kernel->operation, "gemv"))
        return vectors(kernel, words, size);
    return registers(kernel, words, size);
}
