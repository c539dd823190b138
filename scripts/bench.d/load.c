/* load: the load generator of scripts/bench, and a minimal server to measure the generator with.
 *
 *   load closed  port= path= connections= warm= seconds=       each connection asks again at once
 *   load burst   port= path= connections= delay=               one request on each, all at once
 *   load open    port= path= connections= delay= rate= seconds= seed=    Poisson arrivals, rate/s
 *   load streams port= path= connections= interval= count= spread= chunk=   count chunks on each
 *   load hold    port= path= connections=       send all, then keep them waiting until stdin ends
 *   load serve   port=                          answer the same requests with minimal work
 *   load pin CPU PROGRAM [ARGUMENT...]          run PROGRAM on that core; it dies with the caller
 *
 * On 127.0.0.1, HTTP/1.1, keep-alive; all times are in seconds; length= is the length a body must
 * have (bytes; 0, the default: any).  A stream's chunk is a line, or chunk= bytes.  Connections are
 * opened first, which is not counted.  An arrival of the open loop that finds every connection busy
 * is not sent, and counted as "starved".  Streams begin evenly over the first `spread` seconds.
 *
 * Lateness, as the client sees it, by a monotonic clock:
 *   of an answer: its last byte's arrival - its request's first byte sent - delay;
 *   of the n-th chunk of a stream (from 0): its arrival - its request sent - n * interval.
 * A request fails on a status other than 200, a close before the end, a body too long or too
 * short, an answer more than 10 ms too early, or none PATIENCE seconds after it was due; a failed
 * one counts as infinitely late, and its connection is closed.
 *
 * Prints one line of name=value: counts (completed: all answers; answered: without the warm-up);
 * rate (answers/s, closed loop only); p50, p99 and max of the lateness and lag, the p99 by which
 * the generator itself was late to send (all ms); cpu: the part of a core that the generator used
 * from the first response on (user + sys / wall).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 20.0   /* seconds */
#define TOLERANCE 0.010 /* seconds that an answer may be early: two clocks are compared */
#define EVENTS 512
#define STDIN UINT32_MAX /* marks standard input among the epoll events */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) { perror(what); exit(3); }

/* Events on ep, waited for until the moment `until` (epoll_wait alone knows milliseconds only). */
static int await(int ep, struct epoll_event *events, double until) {
    double wait = fmax(0, until - now());
    struct timespec limit = {(time_t)wait, (long)(fmod(wait, 1) * 1e9)};
    struct pollfd ready = {.fd = ep, .events = POLLIN};
    if (ppoll(&ready, 1, &limit, NULL) <= 0) return 0;
    int n = epoll_wait(ep, events, EVENTS, 0);
    return n < 0 ? 0 : n;
}

static void watch(int ep, int fd, uint32_t mark) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = mark};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

/* ---- the options ---- */

static const char *mode, *path = "/";
static double port, connections = 1, count, chunk, length, seed; /* whole numbers, all of them */
static double warm, seconds, delay, rate, interval, spread;

static int is(const char *name) { return !strcmp(mode, name); }

static void option(char *text) {
    static const struct { const char *name; double *value; } known[] = {
        {"port=", &port},     {"connections=", &connections}, {"warm=", &warm},
        {"delay=", &delay},   {"interval=", &interval},       {"rate=", &rate},
        {"count=", &count},   {"seconds=", &seconds},         {"seed=", &seed},
        {"length=", &length}, {"spread=", &spread},           {"chunk=", &chunk},
        {NULL, NULL}};
    char *value = strchr(text, '=') ? strchr(text, '=') + 1 : text;
    if (!strncmp(text, "path=", 5)) { path = value; return; }
    for (int i = 0; known[i].name; i++)
        if (!strncmp(text, known[i].name, strlen(known[i].name))) {
            *known[i].value = atof(value);
            return;
        }
    fprintf(stderr, "load: there is no option %s\n", text);
    exit(2);
}

/* ---- the results ---- */

typedef struct { double *value; long n, room; } Samples;

static void add(Samples *s, double value) {
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 16384;
        if (!(s->value = realloc(s->value, s->room * sizeof(double)))) die("realloc");
    }
    s->value[s->n++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The quantile q of sorted samples, from seconds to milliseconds. */
static double quantile(Samples *s, double q) {
    return s->n ? s->value[(long)ceil((s->n - 1) * q)] * 1e3 : NAN;
}

enum { STATUS, CLOSED, LENGTH, EARLY, TIMEOUT, KINDS };
static const char *const kind_name[KINDS] = {"status", "closed", "length", "early", "timeout"};
static long failures[KINDS], sent, completed, answered, starved;
static Samples late, lags;

/* ---- one connection, and the parser of what it receives ---- */

enum { IDLE, BUSY, DEAD };
enum { HEAD, BODY, SIZE, DATA, AFTER, LAST, DONE, BROKEN, REFUSED }; /* what comes next */

typedef struct {
    int fd, state, part, chunks, used;
    double sent;
    long left, got; /* bytes left of this body or chunk; bytes of body so far */
    char head[1024];
} Conn;

static Conn *conns;
static int epoll, *idle, idles, busy;
static char request[2048];
static int request_length;

static void drop(Conn *c) {
    struct linger reset = {1, 0}; /* RST: leaves no TIME_WAIT */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(c->fd);
    busy -= c->state == BUSY;
    c->state = DEAD;
}

static void fail(Conn *c, int kind) {
    failures[kind]++;
    for (long lost = count ? (long)count - c->chunks : 1; lost > 0; lost--) add(&late, INFINITY);
    drop(c);
}

static void begin(Conn *c) {
    c->state = BUSY, c->part = HEAD, c->chunks = c->used = 0, c->got = 0;
    busy++, sent++;
    c->sent = now();
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != request_length) fail(c, CLOSED);
}

static void next_chunk(Conn *c, double t) {
    double lateness = t - c->sent - c->chunks * interval;
    if (lateness < -TOLERANCE) failures[EARLY]++;
    add(&late, lateness < -TOLERANCE ? INFINITY : lateness);
    c->chunks++;
}

static void body(Conn *c, const char *p, long n, double t) {
    const char *end = p + n;
    c->got += n;
    if (!count) return;
    if (chunk) while ((c->chunks + 1) * chunk <= c->got) next_chunk(c, t);
    else for (; (p = memchr(p, '\n', end - p)); p++) next_chunk(c, t);
}

static void head_complete(Conn *c) {
    const char *found;
    if (strncmp(c->head, "HTTP/1.1 200 ", 13)) c->part = REFUSED;
    else if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) c->part = SIZE, c->left = 0;
    else if ((found = strcasestr(c->head, "\r\ncontent-length:")))
        c->left = atol(found + 17), c->part = c->left ? BODY : DONE;
    else c->part = BROKEN;
}

/* Parse n bytes that arrived at t; c->part says what came of it. */
static void feed(Conn *c, const char *p, long n, double t) {
    for (const char *end = p + n; p < end && c->part < BROKEN;) {
        long here = end - p;
        switch (c->part) {
        case HEAD:
            if (c->used == sizeof c->head - 1) { c->part = BROKEN; break; }
            c->head[c->used++] = *p++, c->head[c->used] = 0;
            if (p[-1] == '\n' && c->used > 3 && !strcmp(c->head + c->used - 4, "\r\n\r\n"))
                head_complete(c);
            break;
        case BODY:
        case DATA:
            if (here > c->left) here = c->left;
            body(c, p, here, t);
            p += here, c->left -= here;
            if (!c->left) c->part = c->part == BODY ? DONE : AFTER;
            break;
        case SIZE: {
            static const char digits[] = "0123456789abcdef";
            const char *digit = *p ? strchr(digits, *p | 32) : NULL;
            if (digit) c->left = c->left * 16 + (digit - digits);
            else if (*p == '\n') c->part = c->left ? DATA : LAST, c->used = 0;
            else if (*p != '\r') c->part = BROKEN;
            p++;
            break;
        }
        case AFTER: /* the line end behind a chunk */
            if (*p++ == '\n') c->part = SIZE, c->left = 0;
            break;
        case LAST: /* the empty line behind the last chunk */
            if (*p++ == '\n') c->part = DONE;
            break;
        case DONE: /* more than a response */
            c->part = BROKEN;
        }
    }
}

/* ---- the generator ---- */

static double start, stop_asking, cpu_used, cpu_from;

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void complete(Conn *c, double t) {
    double lateness = t - c->sent - delay;
    if (count ? c->chunks != count : length && c->got != length) { fail(c, LENGTH); return; }
    if (lateness < -TOLERANCE || is("hold")) { fail(c, EARLY); return; }
    c->state = IDLE, busy--, completed++;
    if (!is("closed")) {
        answered++;
        if (!count) add(&late, lateness);
        idle[idles++] = c - conns;
        return;
    }
    if (t >= start + warm && t < stop_asking) answered++, add(&late, lateness);
    if (t < stop_asking) begin(c);
}

static void receive(Conn *c) {
    static char buffer[65536];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    double t = now();
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (!cpu_from && t >= start + warm) cpu_from = t, cpu_used = cpu();
    if (c->state != BUSY) { drop(c); return; } /* closed, or data, while idle */
    if (n <= 0) { fail(c, CLOSED); return; }
    feed(c, buffer, n, t);
    if (c->part == DONE) complete(c, t);
    if (c->part == BROKEN) fail(c, LENGTH);
    if (c->part == REFUSED) fail(c, STATUS);
}

static void open_all(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((int)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    conns = calloc((int)connections, sizeof *conns), idle = calloc((int)connections, sizeof *idle);
    if (!conns || !idle || (epoll = epoll_create1(0)) < 0) die("load");
    for (int i = (int)connections - 1; i >= 0; i--) { /* so that the first is the first to be taken */
        int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) die("socket");
        if (connect(fd, (void *)&to, sizeof to)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        conns[i].fd = fd, idle[idles++] = i;
        watch(epoll, fd, i);
        if (i % 25 == 0) usleep(3000); /* slower than most accept them */
    }
    usleep(300000); /* all are accepted, and the server is idle again */
}

/* When the next request is due after the one that was due at `last`. */
static double following(double last) {
    static int asked = 1;
    if (is("open")) {
        last -= log(1 - drand48()) / rate;
        return last < start + seconds ? last : INFINITY;
    }
    return asked < connections ? start + spread * asked++ / connections : INFINITY;
}

static void generate(void) {
    struct epoll_event events[EVENTS];
    int holding = is("hold"), told = 0, ended = 0;
    open_all();
    if (holding) watch(epoll, 0, STDIN);
    srand48((long)seed);
    start = now(), stop_asking = start + warm + seconds;
    double next = start, end = stop_asking + spread + delay + count * interval + PATIENCE;
    while (!ended && (holding || busy || next < INFINITY) && now() < end) {
        for (; next <= now(); next = following(next)) {
            while (idles && conns[idle[idles - 1]].state == DEAD) idles--;
            if (!idles) { starved++; continue; }
            Conn *c = &conns[idle[--idles]];
            begin(c);
            add(&lags, c->sent - next);
        }
        if (holding && next == INFINITY && !told++) printf("sent=%ld\n", sent), fflush(stdout);
        int n = await(epoll, events, fmin(fmin(next, end), now() + 0.1));
        for (int i = 0; i < n; i++)
            if (events[i].data.u32 == STDIN) ended = 1;
            else if (conns[events[i].data.u32].state != DEAD) receive(&conns[events[i].data.u32]);
    }
    double wall = now() - cpu_from, used = cpu_from && wall > 0 ? (cpu() - cpu_used) / wall : 0;
    for (int i = 0; i < connections; i++)
        if (conns[i].state == BUSY && !holding) fail(&conns[i], TIMEOUT);
        else if (conns[i].state != DEAD) drop(&conns[i]);
    qsort(late.value, late.n, sizeof(double), ascending);
    qsort(lags.value, lags.n, sizeof(double), ascending);
    long failed = 0;
    for (int k = 0; k < KINDS; k++) failed += failures[k];
    printf("sent=%ld completed=%ld answered=%ld", sent, completed, answered);
    printf(" failed=%ld starved=%ld", failed, starved);
    for (int k = 0; k < KINDS; k++) printf(" %s=%ld", kind_name[k], failures[k]);
    if (is("closed")) printf(" rate=%.1f", answered / seconds);
    printf(" p50=%.3f p99=%.3f", quantile(&late, .5), quantile(&late, .99));
    printf(" max=%.3f lag=%.3f cpu=%.3f\n", quantile(&late, 1), quantile(&lags, .99), used);
}

/* ---- the minimal server ---- */

typedef struct { double from, interval; int used, count, sent; unsigned turn; char in[1024]; } Peer;
typedef struct { double due; int fd; unsigned turn; } Timer;
#define TIMERS (1 << 17)
static Timer timers[TIMERS]; /* all delays are equal, so the first to be set is the first due */
static unsigned first_timer, next_timer;
static Peer *peers;

static void set_timer(double due, int fd) {
    timers[next_timer++ % TIMERS] = (Timer){due, fd, peers[fd].turn};
}

static double earliest(void) {
    return first_timer == next_timer ? INFINITY : timers[first_timer % TIMERS].due;
}

static double value(const char *text, const char *name) {
    const char *found = strstr(text, name);
    return found ? atof(found + strlen(name)) : 0;
}

static void respond(int fd) {
    static const char page[] = "HTTP/1.1 200 OK\r\nContent-Length: 53\r\n\r\n"
                               "<html><body>Sorry to keep you waiting.</body></html>\n";
    char out[256];
    Peer *p = &peers[fd];
    int n;
    if (!p->count) n = snprintf(out, sizeof out, "%s", page);
    else {
        char line[64];
        int size = snprintf(line, sizeof line, "{\"n\": %d}\n", p->sent + 1);
        const char *head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        n = snprintf(out, sizeof out, "%s%x\r\n%s\r\n", p->sent ? "" : head, size, line);
        if (++p->sent < p->count) set_timer(p->from + p->sent * p->interval, fd);
        else n += snprintf(out + n, sizeof out - n, "0\r\n\r\n");
    }
    if (send(fd, out, n, MSG_NOSIGNAL) != n) p->turn++;
}

static void serve_peer(int fd) {
    Peer *p = &peers[fd];
    ssize_t n = recv(fd, p->in + p->used, sizeof p->in - 1 - p->used, 0);
    if (n <= 0) { p->turn++; close(fd); return; } /* a new turn: earlier timers no longer count */
    p->in[p->used += n] = 0;
    if (!strstr(p->in, "\r\n\r\n")) return;
    p->from = now(), p->used = p->sent = 0;
    p->interval = value(p->in, "interval="), p->count = value(p->in, "count=");
    double wait = value(p->in, "delay=");
    if (wait > 0) set_timer(p->from + wait, fd);
    else respond(fd);
}

static void serve(void) {
    struct rlimit limit;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((int)port)};
    struct epoll_event events[EVENTS];
    int one = 1, fd, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    getrlimit(RLIMIT_NOFILE, &limit);
    long room = limit.rlim_cur < 65536 ? (long)limit.rlim_cur : 65536;
    if (!(peers = calloc(room, sizeof *peers)) || (epoll = epoll_create1(0)) < 0) die("load");
    if (bind(listening, (void *)&at, sizeof at) || listen(listening, 4096)) die("listen");
    watch(epoll, listening, listening);
    for (;;) {
        int n = await(epoll, events, fmin(earliest(), now() + 1));
        for (int i = 0; i < n; i++) {
            if ((int)events[i].data.u32 != listening) { serve_peer(events[i].data.u32); continue; }
            while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (fd >= room) { close(fd); continue; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                peers[fd].used = 0;
                watch(epoll, fd, fd);
            }
        }
        while (earliest() <= now()) {
            Timer due = timers[first_timer++ % TIMERS];
            if (peers[due.fd].turn == due.turn) respond(due.fd);
        }
    }
}

static void pin(int cpu_number, char **command) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu_number, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(command[0], command);
    die(command[0]);
}

int main(int argc, char **argv) {
    if (argc > 3 && !strcmp(argv[1], "pin")) pin(atoi(argv[2]), argv + 3);
    if (argc < 3) { fputs("load MODE name=value... (see the head of load.c)\n", stderr); return 2; }
    mode = argv[1];
    for (int i = 2; i < argc; i++) option(argv[i]);
    request_length = snprintf(request, sizeof request,
                              "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", path, (int)port);
    if (is("serve")) serve();
    else generate();
    return 0;
}
