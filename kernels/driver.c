/* Runs kernels on given CPUs and prints one JSON line per repetition.
 *
 *     driver list
 *     driver check [NAME,...]
 *     driver run --kernels NAME,... --cpus 0,1,... [--bytes N] [--seconds S] [--repeats N]
 *                [--streams 1,2,4,8] [--ahead 0,512] [--nontemporal 0,1] [--shape MxNxK]
 *                [--small-pages] [--node N]
 *
 * One thread per CPU listed; a CPU listed twice gets two. Each thread pins itself, then maps and
 * touches its own buffers of --bytes together, in huge pages unless told not to. All start at one
 * instant, and what counts is the window in which all of them were at work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum {
    MAX_THREADS = 4096,
    MAX_LIST = 16,
    MAX_CHUNKS = 8192, /* stamps of one repetition */
    HUGE = 2 << 20,
    SVE_LENGTH_MASK = 0xffff,
};
static const int64_t CHUNK_NS = 500 * 1000, START_NS = 100 * 1000;

struct list {
    unsigned at[MAX_LIST];
    size_t count;
};

struct options {
    const char *kernels;
    int cpus[MAX_THREADS];
    size_t threads, bytes, m, n, k;
    double seconds;
    unsigned repeats;
    struct list streams, ahead, nontemporal;
    int small_pages, node;
};

struct setting {
    unsigned streams, ahead, nontemporal;
};

struct worker {
    pthread_t thread;
    int cpu, seen_cpu;
    const struct run *all;
    struct ab_work work;
    const char *failed;
    unsigned char *map;
    size_t mapped;
    uint64_t rounds; /* of a chunk, to begin with */
    int64_t start, cpu_ns;
    int64_t stamps[MAX_CHUNKS]; /* when each chunk ended */
    uint64_t done[MAX_CHUNKS];  /* rounds by then */
    size_t chunks;
};

struct run {
    const struct ab_kernel *kernel;
    const struct options *options;
    struct worker *workers;
    pthread_barrier_t barrier;
    struct setting settings[MAX_LIST * MAX_LIST * 2];
    size_t setting_count;
    int64_t start; /* of a repetition, set by one thread between two barriers */
    int failed;
    uint64_t huge_bytes;
};

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now(void) { return clock_ns(CLOCK_MONOTONIC); }

/* ---- what the CPU has ---- */

static char features[16384];

static void read_features(void)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    static char line[sizeof features];
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "flags", 5) || !strncmp(line, "Features", 8)) {
            char *colon = strchr(line, ':');
            if (colon)
                snprintf(features, sizeof features, " %s", colon + 1);
            break;
        }
    if (file)
        fclose(file);
    for (char *c = features; *c; c++)
        if (*c == '\n' || *c == '\t')
            *c = ' ';
    if (strlen(features) + 1 < sizeof features)
        strcat(features, " ");
}

/* The first feature that the CPU lacks, in `word`, or NULL. */
static const char *lacking(const struct ab_kernel *kernel, char *word, size_t size)
{
    const char *at = kernel->features;
    while (*at) {
        const size_t length = strcspn(at, " ");
        snprintf(word, size, " %.*s ", (int)length, at);
        if (!strstr(features, word)) {
            snprintf(word, size, "%.*s", (int)length, at);
            return word;
        }
        at += length + strspn(at + length, " ");
    }
    return NULL;
}

static long sve_bytes(void)
{
#ifdef PR_SVE_GET_VL
    const int length = prctl(PR_SVE_GET_VL);
    return length < 0 ? 0 : length & SVE_LENGTH_MASK;
#else
    return 0;
#endif
}

/* ---- one thread ---- */

static const char *pin(int cpu)
{
    const size_t size = CPU_ALLOC_SIZE(cpu + 1);
    cpu_set_t *set = CPU_ALLOC(cpu + 1);
    int failed = 1;
    if (set) {
        CPU_ZERO_S(size, set);
        CPU_SET_S(cpu, size, set);
        failed = sched_setaffinity(0, size, set);
        CPU_FREE(set);
    }
    return failed ? "cannot run on its CPU" : NULL;
}

static const char *bind_memory(int node)
{
    enum { BIND = 2, BITS = 1024 };
    unsigned long mask[BITS / (8 * sizeof(long))] = {0};
    if (node < 0)
        return NULL;
    if (node >= BITS)
        return "no such memory node";
    mask[(size_t)node / (8 * sizeof(long))] = 1ul << ((size_t)node % (8 * sizeof(long)));
    return syscall(SYS_set_mempolicy, BIND, mask, BITS) ? "cannot bind memory to its node" : NULL;
}

/* The buffers of one thread in one mapping, each on a boundary of a huge page and a bit, so that
 * they do not fall on the same cache sets. */
static const char *map_buffers(struct worker *w, const struct options *o)
{
    const struct ab_kernel *kernel = w->all->kernel;
    const size_t arrays = kernel->arrays ? kernel->arrays : 3, skew = 4096 + 128;
    size_t bytes[3] = {0}, total = HUGE;
    w->work = (struct ab_work){.m = o->m, .n = o->n, .k = o->k, .streams = 1};
    w->work.bytes = kernel->arrays ? o->bytes / kernel->arrays / 64 * 64 : o->bytes;
    for (size_t i = 0; i < arrays; i++) {
        bytes[i] = kernel->space(&w->work, (int)i);
        total += ab_round_up(bytes[i] + i * skew, HUGE);
    }
    w->mapped = total;
    w->map = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->map == MAP_FAILED) {
        w->map = NULL;
        return "no memory";
    }
    madvise(w->map, total, o->small_pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    unsigned char *at = (unsigned char *)ab_round_up((uintptr_t)w->map, HUGE);
    unsigned char **buffers[3] = {&w->work.a, &w->work.b, &w->work.c};
    for (size_t i = 0; i < arrays; i++) {
        *buffers[i] = at + i * skew;
        at += ab_round_up(bytes[i] + i * skew, HUGE);
    }
    return kernel->prepare(&w->work);
}

static void apply(struct worker *w, const struct setting *setting)
{
    w->work.streams = setting->streams;
    w->work.ahead = setting->ahead;
    w->work.nontemporal = setting->nontemporal;
}

/* How many rounds take about a chunk's time. Runs for a few of them: a warm-up as well. */
static uint64_t calibrate(struct worker *w)
{
    const struct ab_kernel *kernel = w->all->kernel;
    uint64_t rounds = 1;
    for (;;) {
        const int64_t before = now();
        kernel->run(&w->work, rounds);
        const int64_t took = now() - before;
        if (took >= CHUNK_NS / 4)
            return took >= CHUNK_NS ? rounds : rounds * (uint64_t)CHUNK_NS / (uint64_t)took;
        rounds *= took < CHUNK_NS / 64 ? 8 : 2;
    }
}

/* A chunk grows while it is short: one that was interrupted while calibrating began too small. */
static void repetition(struct worker *w, int64_t start)
{
    const int64_t end = start + (int64_t)(w->all->options->seconds * 1e9);
    uint64_t rounds = w->rounds, done = 0;
    while (now() < start) {
    }
    const int64_t cpu_before = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    int64_t before = w->start = now(), after;
    w->chunks = 0;
    do {
        w->all->kernel->run(&w->work, rounds);
        after = now();
        done += rounds;
        w->stamps[w->chunks] = after;
        w->done[w->chunks++] = done;
        if (after - before < CHUNK_NS / 2)
            rounds *= 2;
        before = after;
    } while (after < end && w->chunks < MAX_CHUNKS);
    w->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_before;
    w->seen_cpu = sched_getcpu();
}

static void report(struct run *all, const struct setting *setting, unsigned repeat);
static void count_huge(struct run *all);

static void *work(void *argument)
{
    struct worker *w = argument;
    struct run *all = (struct run *)(uintptr_t)w->all;
    const int first = w == all->workers;
    w->failed = pin(w->cpu);
    if (!w->failed)
        w->failed = bind_memory(all->options->node);
    if (!w->failed)
        w->failed = map_buffers(w, all->options);
    if (w->failed)
        __atomic_store_n(&all->failed, 1, __ATOMIC_RELAXED);
    pthread_barrier_wait(&all->barrier);
    if (first)
        count_huge(all);
    if (!__atomic_load_n(&all->failed, __ATOMIC_RELAXED))
        for (unsigned repeat = 0; repeat < all->options->repeats; repeat++)
            for (size_t i = 0; i < all->setting_count; i++) {
                apply(w, &all->settings[i]);
                w->rounds = calibrate(w);
                pthread_barrier_wait(&all->barrier);
                if (first)
                    all->start = now() + START_NS;
                pthread_barrier_wait(&all->barrier);
                repetition(w, all->start);
                pthread_barrier_wait(&all->barrier);
                if (first)
                    report(all, &all->settings[i], repeat);
                pthread_barrier_wait(&all->barrier);
            }
    if (w->map)
        munmap(w->map, w->mapped);
    return NULL;
}

/* ---- what is printed ---- */

/* Rounds that a thread did from its start to an instant, a chunk's rounds spread evenly over it. */
static double rounds_until(const struct worker *w, int64_t instant)
{
    int64_t before = w->start;
    double done = 0;
    for (size_t i = 0; i < w->chunks; i++) {
        const double all = (double)w->done[i] - done;
        if (w->stamps[i] >= instant) {
            const double part = (double)(instant - before) / (double)(w->stamps[i] - before + 1);
            return done + (part < 0 ? 0 : part) * all;
        }
        before = w->stamps[i];
        done += all;
    }
    return done;
}

/* The least share of its own time that a thread had its CPU to itself. */
static double cpu_share(const struct run *all)
{
    double least = 1;
    for (size_t i = 0; i < all->options->threads; i++) {
        const struct worker *w = &all->workers[i];
        const double share = (double)w->cpu_ns / (double)(w->stamps[w->chunks - 1] - w->start);
        least = share < least ? share : least;
    }
    return least;
}

static double value(const struct ab_kernel *kernel, double bytes, double ops, double seconds,
                    double threads)
{
    if (!strcmp(kernel->unit, "bytes/s"))
        return bytes / seconds;
    if (!strcmp(kernel->unit, "ops/s"))
        return ops / seconds;
    if (!strcmp(kernel->unit, "Hz"))
        return ops / seconds / threads;
    return seconds * threads / ops; /* s: what one takes */
}

static void report(struct run *all, const struct setting *setting, unsigned repeat)
{
    const struct options *o = all->options;
    const struct ab_kernel *kernel = all->kernel;
    const struct ab_amount each = kernel->amount(&all->workers[0].work);
    int64_t from = INT64_MIN, to = INT64_MAX;
    double total = 0;
    for (size_t i = 0; i < o->threads; i++) {
        const struct worker *w = &all->workers[i];
        from = w->start > from ? w->start : from;
        to = w->stamps[w->chunks - 1] < to ? w->stamps[w->chunks - 1] : to;
    }
    printf("{\"kernel\":\"%s\",\"repeat\":%u,\"unit\":\"%s\",\"threads\":%zu", kernel->name, repeat,
           kernel->unit, o->threads);
    if (to <= from) {
        printf(",\"error\":\"the threads never ran at the same time\"}\n");
        fflush(stdout);
        return;
    }
    const double seconds = (double)(to - from) * 1e-9;
    printf(",\"per_thread\":[");
    for (size_t i = 0; i < o->threads; i++) {
        const struct worker *w = &all->workers[i];
        const double rounds = rounds_until(w, to) - rounds_until(w, from);
        total += rounds;
        printf("%s%.6g", i ? "," : "",
               value(kernel, rounds * (double)each.bytes, rounds * (double)each.ops, seconds, 1));
    }
    const double bytes = total * (double)each.bytes, ops = total * (double)each.ops;
    printf("],\"on\":[");
    for (size_t i = 0; i < o->threads; i++)
        printf("%s%d", i ? "," : "", all->workers[i].seen_cpu);
    printf("],\"value\":%.9g,\"bytes_per_s\":%.9g,\"ops_per_s\":%.9g,\"seconds\":%.6f,"
           "\"cpu_share\":%.4f",
           value(kernel, bytes, ops, seconds, (double)o->threads), bytes / seconds, ops / seconds,
           seconds, cpu_share(all));
    printf(",\"streams\":%u,\"ahead\":%u,\"nontemporal\":%u", setting->streams, setting->ahead,
           setting->nontemporal);
    printf(",\"bytes\":%zu,\"huge_bytes\":%" PRIu64 ",\"vector_bytes\":%ld}\n",
           kernel->arrays ? all->workers[0].work.bytes * kernel->arrays : (size_t)each.bytes,
           all->huge_bytes, kernel->scalable ? sve_bytes() : 0);
    fflush(stdout);
}

/* Bytes of this process that lie in huge pages: what the kernel gave, not what was asked for. */
static void count_huge(struct run *all)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    uint64_t kib;
    all->huge_bytes = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "AnonHugePages: %" SCNu64, &kib) == 1)
            all->huge_bytes = kib * 1024;
    if (file)
        fclose(file);
}

static void complain(const char *kernel, const char *what, const char *detail)
{
    printf("{\"kernel\":\"%s\",\"error\":\"%s%s\"}\n", kernel, what, detail);
    fflush(stdout);
}

/* ---- commands ---- */

static const struct ab_kernel *find(const char *name, size_t length)
{
    size_t count;
    const struct ab_kernel *const *all = ab_kernels(&count);
    for (size_t i = 0; i < count; i++)
        if (strlen(all[i]->name) == length && !strncmp(all[i]->name, name, length))
            return all[i];
    return NULL;
}

static int list(void)
{
    size_t count;
    const struct ab_kernel *const *all = ab_kernels(&count);
    for (size_t i = 0; i < count; i++) {
        const struct ab_kernel *k = all[i];
        printf("{\"name\":\"%s\",\"isa\":\"%s\",\"operation\":\"%s\",\"type\":\"%s\","
               "\"features\":\"%s\",\"unit\":\"%s\",\"arrays\":%u,\"tunable\":%u,\"scalable\":%u,"
               "\"loop_bytes\":%" PRIu64 ",\"loop_ops\":%" PRIu64 ",\"loop\":\"%s\"}\n",
               k->name, k->isa, k->operation, k->type, k->features, k->unit, k->arrays, k->tunable,
               k->scalable, k->loop_bytes, k->loop_ops, k->loop);
    }
    return 0;
}

/* NULL if the kernel may be timed, else why not. */
static const char *refuse(const struct ab_kernel *kernel, char *words, size_t size)
{
    char word[64], wrong[256];
    if (lacking(kernel, word, sizeof word)) {
        snprintf(words, size, "this CPU lacks %s", word);
        return words;
    }
    const char *answer = ab_check(kernel, wrong, sizeof wrong);
    if (answer)
        snprintf(words, size, "%s", answer);
    return answer ? words : NULL;
}

static int check_all(const char *names)
{
    size_t count;
    const struct ab_kernel *const *all = ab_kernels(&count), *const *k = all;
    int failed = 0;
    for (; k < all + count; k++) {
        char words[320], wanted[64];
        snprintf(wanted, sizeof wanted, ",%s,", (*k)->name);
        if (names && !strstr(names, wanted))
            continue;
        const char *answer = refuse(*k, words, sizeof words);
        printf("{\"kernel\":\"%s\",\"ok\":%s,\"reason\":\"%s\"}\n", (*k)->name,
               answer ? "false" : "true", answer ? answer : "");
        fflush(stdout);
        failed |= answer && strncmp(answer, "this CPU lacks", 14);
    }
    return failed;
}

static void add_settings(struct run *all)
{
    const struct options *o = all->options;
    const unsigned heeds = all->kernel->tunable;
    const size_t streams = heeds & AB_STREAMS ? o->streams.count : 1;
    const size_t ahead = heeds & AB_AHEAD ? o->ahead.count : 1;
    const size_t bypass = heeds & AB_NONTEMPORAL ? o->nontemporal.count : 1;
    all->setting_count = 0;
    for (size_t i = 0; i < streams * ahead * bypass && i < sizeof all->settings / sizeof *all->settings;
         i++)
        all->settings[all->setting_count++] = (struct setting){
            .streams = heeds & AB_STREAMS ? o->streams.at[i / (ahead * bypass)] : 1,
            .ahead = heeds & AB_AHEAD ? o->ahead.at[i / bypass % ahead] : 0,
            .nontemporal = heeds & AB_NONTEMPORAL ? o->nontemporal.at[i % bypass] : 0,
        };
}

static int time_kernel(const struct ab_kernel *kernel, const struct options *o)
{
    static struct run all;
    char words[320];
    const char *reason = refuse(kernel, words, sizeof words);
    if (reason) {
        complain(kernel->name, reason, "");
        return 1;
    }
    all = (struct run){.kernel = kernel, .options = o};
    add_settings(&all);
    all.workers = calloc(o->threads, sizeof *all.workers);
    if (!all.workers || pthread_barrier_init(&all.barrier, NULL, (unsigned)o->threads)) {
        complain(kernel->name, "no memory for the threads", "");
        free(all.workers);
        return 1;
    }
    for (size_t i = 0; i < o->threads; i++) {
        struct worker *w = &all.workers[i];
        w->cpu = o->cpus[i];
        w->all = &all;
        if (pthread_create(&w->thread, NULL, work, w)) {
            complain(kernel->name, "cannot start a thread: ", strerror(errno));
            exit(1); /* those started wait at the barrier for ever */
        }
    }
    for (size_t i = 0; i < o->threads; i++)
        pthread_join(all.workers[i].thread, NULL);
    for (size_t i = 0; i < o->threads && all.failed; i++)
        if (all.workers[i].failed) {
            complain(kernel->name, all.workers[i].failed, "");
            break;
        }
    pthread_barrier_destroy(&all.barrier);
    free(all.workers);
    return all.failed;
}

static int usage(const char *what)
{
    fprintf(stderr, "driver: %s; see the head of driver.c\n", what);
    return 2;
}

static int parse_list(const char *text, struct list *to)
{
    to->count = 0;
    for (char *end; to->count < MAX_LIST; text = end + 1) {
        to->at[to->count++] = (unsigned)strtoul(text, &end, 10);
        if (end == text)
            return 1;
        if (*end != ',')
            return *end != 0;
    }
    return 1;
}

static int parse_cpus(const char *text, struct options *o)
{
    for (char *end; o->threads < MAX_THREADS; text = end + 1) {
        const long cpu = strtol(text, &end, 10);
        if (end == text || cpu < 0 || cpu > 1 << 20)
            return 1;
        o->cpus[o->threads++] = (int)cpu;
        if (*end != ',')
            return *end != 0;
    }
    return 1;
}

static int parse(int count, char **words, struct options *o)
{
    for (int i = 0; i < count; i++) {
        const char *name = words[i], *text = i + 1 < count ? words[i + 1] : "";
        int bad = 0;
        if (!strcmp(name, "--small-pages")) {
            o->small_pages = 1;
            continue;
        }
        i++;
        if (!strcmp(name, "--kernels"))
            o->kernels = text;
        else if (!strcmp(name, "--cpus"))
            bad = parse_cpus(text, o);
        else if (!strcmp(name, "--bytes"))
            o->bytes = strtoull(text, NULL, 10);
        else if (!strcmp(name, "--seconds"))
            o->seconds = strtod(text, NULL);
        else if (!strcmp(name, "--repeats"))
            o->repeats = (unsigned)strtoul(text, NULL, 10);
        else if (!strcmp(name, "--streams"))
            bad = parse_list(text, &o->streams);
        else if (!strcmp(name, "--ahead"))
            bad = parse_list(text, &o->ahead);
        else if (!strcmp(name, "--nontemporal"))
            bad = parse_list(text, &o->nontemporal);
        else if (!strcmp(name, "--shape"))
            bad = sscanf(text, "%zux%zux%zu", &o->m, &o->n, &o->k) != 3;
        else if (!strcmp(name, "--node"))
            o->node = (int)strtol(text, NULL, 10);
        else
            bad = 1;
        if (bad || i >= count)
            return 1;
    }
    return !o->kernels || !o->threads;
}

static int run_all(int count, char **words)
{
    static struct options o;
    int failed = 0;
    o = (struct options){.bytes = 64 << 20, .seconds = 0.1, .repeats = 3, .node = -1};
    o.streams = (struct list){{1}, 1};
    o.ahead = (struct list){{0}, 1};
    o.nontemporal = (struct list){{0}, 1};
    if (parse(count, words, &o))
        return usage("options not understood");
    for (const char *at = o.kernels; *at;) {
        const size_t length = strcspn(at, ",");
        const struct ab_kernel *kernel = find(at, length);
        if (!kernel)
            return usage("no such kernel");
        failed |= time_kernel(kernel, &o);
        at += length + (at[length] == ',');
    }
    return failed;
}

int main(int count, char **words)
{
    read_features();
    if (count == 2 && !strcmp(words[1], "list"))
        return list();
    if ((count == 2 || count == 3) && !strcmp(words[1], "check")) {
        static char names[65536];
        snprintf(names, sizeof names, ",%s,", count == 3 ? words[2] : "");
        return check_all(count == 3 ? names : NULL);
    }
    if (count > 2 && !strcmp(words[1], "run"))
        return run_all(count - 2, words + 2);
    return usage("say list, check or run");
}
