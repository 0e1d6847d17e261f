/* An endpoint that streams tokens by the clock and keeps when each was really sent.
 *
 *     truth_server [--port 0] [--cpu N] [--ttft-ms 50] [--itl-ms 10] [--jitter 0] [--seed 1]
 *                  [--tokens 32] [--log FILE] [--fault 500|429|reset|endless --every N]
 *                  [--stall-ms X --stall-every N]
 *
 * prints its port once it listens on 127.0.0.1, and serves POST /v1/completions and
 * /v1/chat/completions with stream true, GET /v1/models and /health. The first token of a request
 * is due --ttft-ms after it came, each later one --itl-ms after the one before, both times a factor
 * drawn evenly from 1 ± jitter. Each token is one event, one chunk and one send() without delay;
 * its text is " the", one token in every usual vocabulary. Every --every'th request gets the fault;
 * after every --stall-every'th token the whole server sleeps.
 *
 * On SIGTERM or SIGINT it writes the log, one JSON line for each request in order of arrival:
 * `key` is its X-Request-Id, `id` the number in the answer's id, `received_ns` when it had been read
 * as a whole, `arrived_ns` when its last part came to the socket by the kernel's receive timestamp
 * (null where there is none), `sent_ns` the instants before each token's send(), `returned_ns` those
 * after it, `held` how many tokens waited in memory for a client that reads slowly, `finish` how it
 * ended: done, reset, gone (the client left), open, or the status refused with. CLOCK_MONOTONIC, ns.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { KEY = 128, MESSAGE = 2048, READ = 65536, MAX_EVENTS = 256, MAX_BODY = 64 << 20 };
static const int64_t SECOND = 1000 * 1000 * 1000;

static struct {
    int port, cpu;
    double ttft_ms, itl_ms, jitter, stall_ms;
    uint64_t seed;
    uint32_t tokens, every, stall_every;
    const char *log, *fault;
} options = {.cpu = -1, .ttft_ms = 50, .itl_ms = 10, .seed = 1, .tokens = 32, .every = 1};

struct request {
    char key[KEY];
    int64_t received, arrived; /* arrived: -1 where the kernel did not say */
    uint32_t wanted, sent, held, room;
    int64_t *before, *after;
    const char *finish;
};

struct connection {
    int fd;
    char *in;
    size_t in_used, in_room;
    char *out; /* what the socket did not take */
    size_t out_used, out_done, out_room;
    struct request *request; /* being answered */
    uint64_t number;         /* of that request */
    int chat, usage, running, endless;
    uint32_t prompt, reset_at;
    int64_t arrived, due;
    size_t at; /* in the heap of timers, 0: not there */
};

static struct request **requests;
static uint64_t request_count, request_room, tokens_sent;
static struct connection **heap; /* from 1 on, the earliest first */
static size_t heap_count, heap_room;
static int poller;
static volatile sig_atomic_t stopping;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void *grown(void *old, size_t bytes) {
    void *new = realloc(old, bytes);
    if (!new) fail("realloc");
    return new;
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static int64_t drawn(double ms) {
    static uint64_t state;
    if (!state) state = options.seed * 2 + 1;
    state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    double even = (double)(state >> 11) / (double)(1ull << 53);
    return (int64_t)(ms * 1e6 * (1 + options.jitter * (2 * even - 1)));
}

/* The heap of timers. */

static void put(size_t at, struct connection *c) {
    heap[at] = c;
    c->at = at;
}

static void settle(size_t at) {
    struct connection *c = heap[at];
    for (; at > 1 && heap[at / 2]->due > c->due; at /= 2) put(at, heap[at / 2]);
    for (size_t child; (child = at * 2) <= heap_count; at = child) {
        if (child < heap_count && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        put(at, heap[child]);
    }
    put(at, c);
}

static void disarm(struct connection *c) {
    size_t at = c->at;
    if (!at) return;
    c->at = 0;
    struct connection *last = heap[heap_count--];
    if (last == c) return;
    put(at, last);
    settle(at);
}

static void arm(struct connection *c, int64_t due) {
    c->due = due;
    if (!c->at) {
        if (heap_count + 2 > heap_room) {
            heap_room = heap_room ? heap_room * 2 : 256;
            heap = grown(heap, heap_room * sizeof *heap);
        }
        put(++heap_count, c);
    }
    settle(c->at);
}

static void drop(struct connection *c, const char *why) {
    if (c->request) c->request->finish = why;
    disarm(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

/* Sends, or keeps what the socket does not take. True where all of it went to the kernel. */
static int deliver(struct connection *c, const char *data, size_t size) {
    ssize_t taken = 0;
    if (c->out_used == c->out_done) {
        taken = send(c->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken == (ssize_t)size) return 1;
        if (taken < 0) taken = 0; /* a lost client is noticed where it is read from */
        c->out_used = c->out_done = 0;
        struct epoll_event wish = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wish);
    }
    size_t rest = size - (size_t)taken;
    if (c->out_used + rest > c->out_room) {
        c->out_room = (c->out_used + rest) * 2;
        c->out = grown(c->out, c->out_room);
    }
    memcpy(c->out + c->out_used, data + taken, rest);
    c->out_used += rest;
    return 0;
}

static int deliver_rest(struct connection *c) {
    ssize_t taken = send(c->fd, c->out + c->out_done, c->out_used - c->out_done,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
    if (taken < 0) return errno == EAGAIN || errno == EINTR;
    c->out_done += (size_t)taken;
    if (c->out_done == c->out_used) {
        c->out_done = c->out_used = 0;
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wish);
    }
    return 1;
}

/* A message under construction: an answer's head and chunks that go out in one send(). */
struct message {
    char text[MESSAGE];
    size_t used;
};

__attribute__((format(printf, 2, 3))) static void add(struct message *m, const char *form, ...) {
    va_list rest;
    va_start(rest, form);
    int more = vsnprintf(m->text + m->used, MESSAGE - m->used, form, rest);
    va_end(rest);
    m->used += (size_t)more;
    if (m->used >= MESSAGE) abort();
}

static void add_head(struct message *m) {
    add(m, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
           "Transfer-Encoding: chunked\r\n\r\n");
}

/* One event in one chunk: `choices` and, where asked for, the usage so far. */
static void add_event(struct message *m, const struct connection *c, const char *choices,
                      int usage) {
    struct message event = {.used = 0};
    add(&event, "data: {\"id\":\"%s-%" PRIu64 "\",\"object\":\"%s\",\"created\":%ld,"
        "\"model\":\"truth\",\"choices\":[%s]", c->chat ? "chatcmpl" : "cmpl", c->number,
        c->chat ? "chat.completion.chunk" : "text_completion", (long)time(NULL), choices);
    if (usage)
        add(&event, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,"
            "\"total_tokens\":%u}", c->prompt, c->request->sent, c->prompt + c->request->sent);
    add(&event, "}\n\n");
    add(m, "%zx\r\n%s\r\n", event.used, event.text);
}

static void add_token(struct message *m, const struct connection *c, int last) {
    struct message choice = {.used = 0};
    add(&choice, c->chat ? "{\"index\":0,\"delta\":{\"content\":\" the\"},\"finish_reason\":%s}"
                         : "{\"index\":0,\"text\":\" the\",\"logprobs\":null,\"finish_reason\":%s}",
        last ? "\"length\"" : "null");
    add_event(m, c, choice.text, c->running);
}

static void stamp(struct request *r, int64_t before, int64_t after) {
    if (r->sent > r->room) {
        r->room = r->room ? r->room * 2 : r->wanted;
        if (r->room < r->sent) r->room = r->sent;
        r->before = grown(r->before, r->room * sizeof *r->before);
        r->after = grown(r->after, r->room * sizeof *r->after);
    }
    r->before[r->sent - 1] = before;
    r->after[r->sent - 1] = after;
}

static void stall(void) {
    if (!options.stall_every || tokens_sent % options.stall_every) return;
    int64_t ns = (int64_t)(options.stall_ms * 1e6);
    struct timespec rest = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
    nanosleep(&rest, NULL);
}

static void take(struct connection *c);

static void finish(struct connection *c) {
    struct message end = {.used = 0};
    if (c->usage) add_event(&end, c, "", 1);
    add(&end, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    deliver(c, end.text, end.used);
    c->request->finish = "done";
    c->request = NULL;
    take(c); /* a request may have come meanwhile */
}

/* Sends the token that is due, and sets the time of the next. */
static void next_token(struct connection *c) {
    struct request *r = c->request;
    if (c->reset_at && r->sent + 1 == c->reset_at) {
        struct linger none = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        drop(c, "reset");
        return;
    }
    struct message m = {.used = 0};
    if (!r->sent && !c->chat) add_head(&m);
    r->sent++;
    int last = r->sent == r->wanted && !c->endless;
    add_token(&m, c, last);
    int64_t before = now_ns();
    if (!deliver(c, m.text, m.used)) r->held++;
    stamp(r, before, now_ns());
    tokens_sent++;
    disarm(c);
    stall();
    if (last)
        finish(c);
    else
        arm(c, c->due + drawn(options.itl_ms));
}

static void answer(struct connection *c, const char *status, const char *more, const char *body) {
    struct message m = {.used = 0};
    add(&m, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
        status, more, strlen(body), body);
    deliver(c, m.text, m.used);
}

static int refuse(struct connection *c, struct request *r) {
    if (!options.fault || (c->number + 1) % options.every) return 0;
    c->endless = !strcmp(options.fault, "endless");
    if (!strcmp(options.fault, "reset")) c->reset_at = r->wanted / 2 + 1;
    if (c->endless || c->reset_at) return 0;
    int busy = !strcmp(options.fault, "429");
    answer(c, busy ? "429 Too Many Requests" : "500 Internal Server Error",
           busy ? "Retry-After: 1\r\n" : "", "{\"error\":{\"message\":\"as asked for\"}}");
    r->finish = busy ? "429" : "500";
    return 1;
}

/* The number after a member's name in a JSON text. Inside a string its quotes would be escaped. */
static uint32_t member(const char *body, const char *name, uint32_t otherwise) {
    const char *found = strstr(body, name);
    if (!found) return otherwise;
    found += strlen(name);
    found += strspn(found, " \t\r\n:");
    char *end;
    unsigned long value = strtoul(found, &end, 10);
    return end == found || value < 1 || value > 1u << 24 ? otherwise : (uint32_t)value;
}

static int truth_of(const char *body, const char *name) {
    const char *found = strstr(body, name);
    if (!found) return 0;
    found += strlen(name);
    return !strncmp(found + strspn(found, " \t\r\n:"), "true", 4);
}

/* Words of a text or ids of a list, near enough for a usage that nobody computes with. */
static uint32_t prompt_tokens(const char *body) {
    uint32_t count = 1;
    for (; *body; body++) count += *body == ' ' || *body == ',';
    return count;
}

static void begin(struct connection *c, const char *key, const char *body, int chat) {
    struct request *r = calloc(1, sizeof *r);
    if (!r) fail("calloc");
    r->received = now_ns();
    r->arrived = c->arrived;
    snprintf(r->key, KEY, "%s", key);
    r->wanted = member(body, "\"max_tokens\"", options.tokens);
    r->wanted = member(body, "\"max_completion_tokens\"", r->wanted);
    if (request_count == request_room) {
        request_room = request_room ? request_room * 2 : 1024;
        requests = grown(requests, request_room * sizeof *requests);
    }
    c->number = request_count;
    requests[request_count++] = r;
    c->chat = chat;
    c->usage = truth_of(body, "\"include_usage\"");
    c->running = truth_of(body, "\"continuous_usage_stats\"");
    c->prompt = prompt_tokens(body);
    c->endless = c->reset_at = 0;
    if (refuse(c, r)) return;
    c->request = r;
    if (chat) { /* as servers do: a chunk with the role alone, at once, which is no token */
        struct message m = {.used = 0};
        add_head(&m);
        add_event(&m, c, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                         "\"finish_reason\":null}", 0);
        deliver(c, m.text, m.used);
    }
    arm(c, (r->arrived >= 0 ? r->arrived : r->received) + drawn(options.ttft_ms));
}

static void route(struct connection *c, const char *head, const char *key, const char *body) {
    int chat = !strncmp(head, "POST /v1/chat/completions ", 26);
    if (chat || !strncmp(head, "POST /v1/completions ", 21)) {
        if (truth_of(body, "\"stream\""))
            begin(c, key, body, chat);
        else
            answer(c, "400 Bad Request", "", "{\"error\":{\"message\":\"only with stream true\"}}");
    } else if (!strncmp(head, "GET /v1/models ", 15)) {
        answer(c, "200 OK", "",
               "{\"object\":\"list\",\"data\":[{\"id\":\"truth\",\"object\":\"model\"}]}");
    } else if (!strncmp(head, "GET /health ", 12)) {
        answer(c, "200 OK", "", "{}");
    } else {
        answer(c, "404 Not Found", "", "{\"error\":{\"message\":\"no such path\"}}");
    }
}

/* The value of a header, copied; empty where there is none. */
static void header(const char *head, const char *name, char *value) {
    size_t length = strlen(name);
    *value = 0;
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) || line[length] != ':') continue;
        line += length + 1;
        line += strspn(line, " \t");
        size_t size = strcspn(line, "\r\"\\");
        if (size >= KEY) size = KEY - 1;
        memcpy(value, line, size);
        value[size] = 0;
        return;
    }
}

/* Acts on the requests that lie in memory as a whole, while none is being answered. */
static void take(struct connection *c) {
    while (!c->request && c->in_used) {
        c->in[c->in_used] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return;
        char key[KEY], length[KEY];
        end[2] = 0;
        header(c->in, "X-Request-Id", key);
        header(c->in, "Content-Length", length);
        end[2] = '\r';
        char *body = end + 4;
        size_t size = strtoul(length, NULL, 10), whole = (size_t)(body - c->in) + size;
        if (c->in_used < whole) return;
        char after = c->in[whole];
        c->in[whole] = 0;
        route(c, c->in, key, body);
        c->in[whole] = after;
        c->in_used -= whole;
        memmove(c->in, c->in + whole, c->in_used);
    }
}

/* The kernel's receive timestamp of what was read last, on our clock; -1 where there is none. */
static int64_t arrival(struct msghdr *message) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec at;
            memcpy(&at, CMSG_DATA(part), sizeof at);
            int64_t ago = clock_ns(CLOCK_REALTIME) - (at.tv_sec * SECOND + at.tv_nsec);
            return now_ns() - ago;
        }
    return -1;
}

static void receive(struct connection *c) {
    for (;;) {
        if (c->in_used + READ + 1 > c->in_room) {
            c->in_room = c->in_room * 2 + READ + 1;
            c->in = grown(c->in, c->in_room);
        }
        char control[CMSG_SPACE(sizeof(struct timespec))];
        struct iovec part = {c->in + c->in_used, READ};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(c->fd, &message, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0 || c->in_used > MAX_BODY) {
            drop(c, "gone");
            return;
        }
        c->in_used += (size_t)got;
        c->arrived = arrival(&message);
        take(c);
        if (got < READ) return;
    }
}

static void welcome(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) fail("calloc");
        c->fd = fd;
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish)) fail("epoll_ctl");
    }
}

static int listening(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof yes); /* accepted sockets inherit it */
    if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, 4096)) fail("listen");
    getsockname(fd, (struct sockaddr *)&at, &size);
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wish)) fail("epoll_ctl");
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(int listener, const sigset_t *unblocked) {
    struct epoll_event events[MAX_EVENTS];
    while (!stopping) {
        /* One token at a time: a request that comes is seen between two. */
        int64_t wait = heap_count ? heap[1]->due - now_ns() : SECOND;
        if (wait <= 0) next_token(heap[1]);
        if (wait < 0) wait = 0;
        struct timespec left = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND};
        int ready = epoll_pwait2(poller, events, MAX_EVENTS, &left, unblocked);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                welcome(listener);
            } else if (events[i].events & EPOLLOUT && !deliver_rest(c)) {
                drop(c, "gone");
            } else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                receive(c);
            }
        }
    }
}

static void write_instants(FILE *file, const char *name, const int64_t *at, uint32_t count) {
    fprintf(file, ",\"%s\":[", name);
    for (uint32_t i = 0; i < count; i++) fprintf(file, "%s%" PRId64, i ? "," : "", at[i]);
    fputc(']', file);
}

static void write_log(void) {
    FILE *file = options.log ? fopen(options.log, "w") : NULL;
    if (!file) {
        if (options.log) fail(options.log);
        return;
    }
    for (uint64_t i = 0; i < request_count; i++) {
        const struct request *r = requests[i];
        fprintf(file, "{\"id\":%" PRIu64 ",\"key\":\"%s\",\"received_ns\":%" PRId64, i, r->key,
                r->received);
        if (r->arrived >= 0)
            fprintf(file, ",\"arrived_ns\":%" PRId64, r->arrived);
        else
            fprintf(file, ",\"arrived_ns\":null");
        fprintf(file, ",\"held\":%u,\"finish\":\"%s\"", r->held, r->finish ? r->finish : "open");
        write_instants(file, "sent_ns", r->before, r->sent);
        write_instants(file, "returned_ns", r->after, r->sent);
        fputs("}\n", file);
    }
    if (fclose(file)) fail(options.log);
}

static void read_options(int count, char **words) {
    for (int i = 1; i < count; i += 2) {
        const char *name = words[i], *value = i + 1 < count ? words[i + 1] : NULL;
        if (!value) goto unknown;
        if (!strcmp(name, "--port")) options.port = atoi(value);
        else if (!strcmp(name, "--cpu")) options.cpu = atoi(value);
        else if (!strcmp(name, "--ttft-ms")) options.ttft_ms = atof(value);
        else if (!strcmp(name, "--itl-ms")) options.itl_ms = atof(value);
        else if (!strcmp(name, "--jitter")) options.jitter = atof(value);
        else if (!strcmp(name, "--seed")) options.seed = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--tokens")) options.tokens = (uint32_t)atoi(value);
        else if (!strcmp(name, "--log")) options.log = value;
        else if (!strcmp(name, "--fault")) options.fault = value;
        else if (!strcmp(name, "--every")) options.every = (uint32_t)atoi(value);
        else if (!strcmp(name, "--stall-ms")) options.stall_ms = atof(value);
        else if (!strcmp(name, "--stall-every")) options.stall_every = (uint32_t)atoi(value);
        else goto unknown;
        continue;
    unknown:
        fprintf(stderr, "truth_server: %s is no option, or lacks its value\n", name);
        exit(2);
    }
    if (!options.every) options.every = 1;
}

static void stop(int number) {
    (void)number;
    stopping = 1;
}

int main(int count, char **words) {
    read_options(count, words);
    prctl(PR_SET_TIMERSLACK, 1ul);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* a test that is killed leaves no server behind */
    if (options.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)options.cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set)) fail("sched_setaffinity");
    }
    struct sigaction action = {.sa_handler = stop};
    sigset_t blocked, unblocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &unblocked);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll_create1");
    serve(listening(), &unblocked);
    write_log();
    return 0;
}
