/*
 * A load generator for the benchmarks: one thread, one epoll, five protocols, loopback only.
 *
 *     generator memcache port=22122 both=10 depth=1 size=100 count=100000 seconds=10
 *
 * Connections are producers (puts=N), consumers (takes=N) or do both by turns (both=N): put a message, take one, again.
 * Each has `depth` requests under way. It prints one line of JSON: how many, how long, latencies in microseconds, and the
 * processor time it took itself, which says whether it was the limit.
 *
 * With fan=1 every consumer is to get every message (a topic). With rate=R puts are sent by the clock, R a second over
 * all connections, and latency counts from when each was due: a server that stalls is charged for what had to wait.
 *
 * With level=1 STOMP consumers acknowledge no more than was put, so that as many wait at the end as at the beginning,
 * however many that are, and every take that is counted comes with a put.
 *
 * With hold=1 it says `connected` once it is, and begins when its input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum protocol { MEMCACHE, BEANSTALK, REDIS, STOMP, HTTP, PROTOCOLS };
static const char *names[] = {"memcache", "beanstalk", "redis", "stomp", "http"};

enum kind { PUT, TAKE, SETTLE };

struct asked {
    enum kind kind;
    uint64_t at;
    long number; /* which message, and so which queue */
};

struct bytes {
    char *data;
    size_t begin, end, room;
};

struct connection {
    int fd, puts, takes, ready, stopped, watches_out, slots;
    struct bytes in, out, acks; /* acks: frames not sent yet */
    struct asked *asked; /* a ring; its size is a power of two */
    unsigned first, last, ring;
};

/* -- settings */

static enum protocol protocol;
static int port, puts_only, takes_only, both, depth = 1, size = 100, queues = 1, receipts = 1, prefetch, batch = 1;
static int wait_ms, exact, fan, hold, level;
static long count = 100000, expected = -1;
static double seconds = 10, rate;
static const char *queue = "bench", *ack = "auto", *login = "", *passcode = "", *host = "/", *extra = "", *suffix = "";
static const char *versions = "1.0,1.1,1.2";

/* -- what is seen */

#define BUCKETS (64 * 64)
struct latencies {
    uint64_t bucket[BUCKETS];
    uint64_t seen, longest;
};

static struct latencies put_times, take_times;
static long asked_puts, done_puts, done_takes, asked_takes, empty, errors;
static uint64_t began, last_done;
static struct connection *connections;
static int all, poll_fd;
static char *body;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *why)
{
    fprintf(stderr, "generator: %s\n", why);
    exit(1);
}

/* Buckets are 1/32 wide of what they count: an error of 3 %. */
static unsigned bucket_of(uint64_t ns)
{
    unsigned shift = 0;
    while (ns >> shift >= 64)
        shift++;
    return shift * 32 + (unsigned)(ns >> shift);
}

static double bucket_value(unsigned bucket)
{
    unsigned shift = bucket < 64 ? 0 : bucket / 32 - 1;
    return (double)((uint64_t)(bucket - shift * 32) << shift);
}

static void record(struct latencies *of, uint64_t ns)
{
    unsigned bucket = bucket_of(ns);
    of->bucket[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    of->seen++;
    if (ns > of->longest)
        of->longest = ns;
}

static double percentile(const struct latencies *of, double share)
{
    uint64_t below = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((below += of->bucket[i]) > share * (double)of->seen)
            return (bucket_value(i) < (double)of->longest ? bucket_value(i) : (double)of->longest) / 1e3;
    return (double)of->longest / 1e3;
}

/* -- bytes */

static void room_for(struct bytes *b, size_t more)
{
    if (b->end + more <= b->room)
        return;
    if (b->begin) {
        memmove(b->data, b->data + b->begin, b->end - b->begin);
        b->end -= b->begin;
        b->begin = 0;
    }
    if (b->end + more > b->room) {
        b->room = (b->end + more) * 2;
        if (!(b->data = realloc(b->data, b->room + 1)))
            fail("out of memory");
    }
}

static void append(struct bytes *to, const char *data, size_t length)
{
    room_for(to, length);
    memcpy(to->data + to->end, data, length);
    to->end += length;
}

static void say(struct connection *c, const char *data, size_t length)
{
    append(&c->out, data, length);
}

__attribute__((format(printf, 2, 3))) static void sayf(struct connection *c, const char *format, ...)
{
    char line[2048];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof line)
        fail("a line is too long");
    say(c, line, (size_t)length);
}

static void push(struct connection *c, enum kind kind, uint64_t at, long number)
{
    if (c->last - c->first == c->ring) {
        unsigned ring = c->ring ? c->ring * 2 : 64;
        struct asked *larger = malloc(ring * sizeof *larger);
        for (unsigned i = 0; i < c->last - c->first; i++)
            larger[i] = c->asked[(c->first + i) & (c->ring - 1)];
        free(c->asked);
        c->asked = larger;
        c->last -= c->first;
        c->first = 0;
        c->ring = ring;
    }
    c->asked[c->last++ & (c->ring - 1)] = (struct asked){kind, at, number};
}

static struct asked pop(struct connection *c)
{
    if (c->first == c->last)
        fail("an answer to nothing");
    return c->asked[c->first++ & (c->ring - 1)];
}

/* -- requests */

static const char *name_of(long number)
{
    static char name[300];
    if (queues == 1)
        return queue;
    snprintf(name, sizeof name, "%s%ld", queue, number % queues);
    return name;
}

static void put(struct connection *c, uint64_t due)
{
    long number = asked_puts / batch;
    const char *name = name_of(number);
    asked_puts += batch;
    if (size >= 16) {
        char stamp[17];
        snprintf(stamp, sizeof stamp, "%016llx", (unsigned long long)due);
        memcpy(body, stamp, 16);
    }
    switch (protocol) {
    case MEMCACHE:
        sayf(c, "set %s 0 0 %d\r\n", name, size);
        break;
    case BEANSTALK:
        sayf(c, "put 0 0 60 %d\r\n", size);
        break;
    case REDIS:
        sayf(c, "*3\r\n$5\r\nRPUSH\r\n$%zu\r\n%s\r\n$%d\r\n", strlen(name), name, size);
        break;
    case STOMP:
        sayf(c, "SEND\ndestination:%s\ncontent-length:%d\n%s%s\n", name, size, extra, receipts ? "receipt:p\n" : "");
        break;
    case HTTP:
        if (batch > 1) {
            sayf(c, "POST /channels/%s/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
                    "Content-Length: %d\r\n\r\n", name, batch * (size + 3));
            for (int i = 0; i < batch; i++) {
                say(c, "\"", 1);
                say(c, body, (size_t)size);
                say(c, "\"\n", 2);
            }
            push(c, PUT, due, number);
            return;
        }
        sayf(c, "POST /channels/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n",
             name, size);
        break;
    default:
        break;
    }
    say(c, body, (size_t)size);
    if (protocol == STOMP)
        say(c, "", 1);
    else if (protocol != HTTP)
        say(c, "\r\n", 2);
    if (protocol == STOMP && !receipts) {
        done_puts++;
        last_done = now();
    } else
        push(c, PUT, due, number);
}

static void take(struct connection *c, uint64_t at, long number)
{
    const char *name = name_of(number);
    asked_takes++;
    switch (protocol) {
    case MEMCACHE:
        sayf(c, "get %s%s\r\n", name, suffix);
        break;
    case BEANSTALK:
        sayf(c, "reserve-with-timeout %d\r\n", wait_ms / 1000);
        break;
    case REDIS:
        sayf(c, "*2\r\n$4\r\nLPOP\r\n$%zu\r\n%s\r\n", strlen(name), name);
        break;
    case HTTP:
        if (batch > 1)
            sayf(c, "POST /channels/%s/lease?limit=%d&nowait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", name,
                 batch);
        else
            sayf(c, "GET /channels/%s?nowait HTTP/1.1\r\nHost: localhost\r\n\r\n", name);
        break;
    default:
        return;
    }
    push(c, TAKE, at, number);
}

static int more_puts(void)
{
    return asked_puts < count && now() - began < (uint64_t)(seconds * 1e9);
}

static int more_takes(void)
{
    return asked_takes * batch < expected;
}

/* Acknowledge as many as were put, each consumer in its turn. */
static void level_out(void)
{
    static int whose;
    for (int empty_handed = 0; empty_handed < all && done_takes < done_puts; whose++) {
        struct connection *c = connections + whose % all;
        if (c->acks.begin == c->acks.end) {
            c->acks.begin = c->acks.end = 0;
            empty_handed++;
            continue;
        }
        size_t length = strlen(c->acks.data + c->acks.begin) + 1;
        append(&c->out, c->acks.data + c->acks.begin, length);
        c->acks.begin += length;
        empty_handed = 0;
        done_takes++;
        last_done = now();
    }
}

/* One slot of a connection is free. */
static void next(struct connection *c)
{
    uint64_t at = now();
    if (rate > 0 && c->puts)
        return; /* the clock says when */
    if (c->puts && more_puts())
        put(c, at);
    else if (!c->puts && c->takes && protocol != STOMP && !c->stopped && more_takes())
        take(c, at, asked_takes);
}

static void put_done(struct connection *c)
{
    uint64_t at = now();
    struct asked asked = pop(c);
    record(&put_times, at - asked.at);
    done_puts += batch;
    last_done = at;
    if (c->takes && protocol != STOMP)
        take(c, at, asked.number);
    else
        next(c);
}

static void take_done(struct connection *c, uint64_t since)
{
    uint64_t at = now();
    record(&take_times, at - since);
    done_takes += batch;
    last_done = at;
    next(c);
}

static void nothing(struct connection *c)
{
    empty++;
    asked_takes--;
    pop(c);
    if (wait_ms)
        next(c);
    else {
        c->stopped = !c->puts;
        if (c->puts)
            next(c);
    }
}

static void wrong(const char *what, size_t length)
{
    if (errors++ < 3)
        fprintf(stderr, "generator: %s said: %.*s\n", names[protocol], (int)(length > 300 ? 300 : length), what);
}

/* -- answers: each returns the bytes it has used, 0 if the answer is not whole */

static size_t line_answer(struct connection *c, char *data, size_t length)
{
    char *end = memmem(data, length, "\r\n", 2);
    if (!end)
        return 0;
    size_t line = (size_t)(end - data) + 2;
    const char *stored = protocol == MEMCACHE ? "STORED" : protocol == BEANSTALK ? "INSERTED" : ":";
    if (!strncmp(data, stored, strlen(stored))) {
        put_done(c);
        return line;
    }
    if (protocol == MEMCACHE && !strncmp(data, "VALUE ", 6)) {
        char *blank = memrchr(data, ' ', line);
        size_t whole = line + strtoul(blank, NULL, 10) + 7;
        if (length < whole)
            return 0;
        take_done(c, pop(c).at);
        return whole;
    }
    if (protocol == REDIS && *data == '$' && data[1] != '-') {
        size_t whole = line + strtoul(data + 1, NULL, 10) + 2;
        if (length < whole)
            return 0;
        take_done(c, pop(c).at);
        return whole;
    }
    if (protocol == BEANSTALK && !strncmp(data, "RESERVED ", 9)) {
        char *after;
        unsigned long id = strtoul(data + 9, &after, 10);
        size_t whole = line + strtoul(after, NULL, 10) + 2;
        if (length < whole)
            return 0;
        uint64_t at = pop(c).at;
        sayf(c, "delete %lu\r\n", id);
        push(c, SETTLE, at, 0);
        return whole;
    }
    if (protocol == BEANSTALK && !strncmp(data, "DELETED", 7)) {
        take_done(c, pop(c).at);
        return line;
    }
    if (!strncmp(data, "END\r\n", 5) || !strncmp(data, "$-1", 3) || !strncmp(data, "TIMED_OUT", 9)) {
        nothing(c);
        return line;
    }
    wrong(data, line);
    pop(c);
    return line;
}

/* The value of a header in a block that ends in a zero byte; NULL if it has none. */
static char *header(char *block, const char *name)
{
    size_t length = strlen(name);
    for (char *line = strchr(block, '\n'); line; line = strchr(line, '\n'))
        if (!strncasecmp(++line, name, length) && line[length] == ':') {
            line += length + 1;
            while (*line == ' ')
                line++;
            return line;
        }
    return NULL;
}

static void settle_batch(struct connection *c, char *said, uint64_t at)
{
    char ops[65536];
    int length = sprintf(ops, "{\"ops\":["), found = 0;
    for (char *one = said; (one = strstr(one, "{\"id\":")) && found < batch; one++) {
        char *end;
        unsigned long id = strtoul(one + 6, &end, 10);
        if (strncmp(end, ",\"channel\"", 10))
            continue; /* an event's */
        length += sprintf(ops + length, "%s{\"ack\":{\"id\":%lu}}", found++ ? "," : "", id);
    }
    length += sprintf(ops + length, "]}");
    if (!found) {
        push(c, TAKE, at, 0);
        nothing(c);
        return;
    }
    sayf(c, "POST /commit?atomic=0 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
         length);
    say(c, ops, (size_t)length);
    push(c, SETTLE, at, 0);
}

static size_t http_answer(struct connection *c, char *data, size_t length)
{
    char *blank = memmem(data, length, "\r\n\r\n", 4);
    if (!blank)
        return 0;
    *blank = 0;
    char *field = header(data, "content-length"), *id = header(data, "x-linger-msg-id");
    size_t whole = (size_t)(blank - data) + 4 + (field ? strtoul(field, NULL, 10) : 0);
    int status = atoi(data + 9);
    if (length < whole) {
        *blank = '\r';
        return 0;
    }
    struct asked asked = pop(c);
    if (status < 200 || status > 299)
        wrong(data, whole);
    if (asked.kind == PUT) {
        c->first--;
        put_done(c);
    } else if (asked.kind == SETTLE)
        take_done(c, asked.at);
    else if (status == 204) {
        c->first--;
        nothing(c);
    } else if (batch > 1) {
        char kept = data[whole];
        data[whole] = 0;
        settle_batch(c, blank + 4, asked.at);
        data[whole] = kept;
    } else if (id) {
        sayf(c, "DELETE /messages/%lu HTTP/1.1\r\nHost: localhost\r\n\r\n", strtoul(id, NULL, 10));
        push(c, SETTLE, asked.at, 0);
    }
    return whole;
}

static void subscribe(struct connection *c)
{
    sayf(c, "SUBSCRIBE\nid:0\ndestination:%s\nack:%s\nreceipt:s\n", name_of(c - connections), ack);
    if (prefetch)
        sayf(c, "prefetch-count:%d\nactivemq.prefetchSize:%d\n", prefetch, prefetch);
    say(c, "\n", 2);
}

static size_t stomp_answer(struct connection *c, char *data, size_t length)
{
    if (*data == '\n' || *data == '\r')
        return 1;
    char *blank = memmem(data, length, "\n\n", 2);
    if (!blank)
        return 0;
    *blank = 0;
    char *field = header(data, "content-length");
    size_t head = (size_t)(blank - data) + 2, whole;
    if (field)
        whole = head + strtoul(field, NULL, 10) + 1;
    else {
        char *end = memchr(data + head, 0, length - head);
        whole = end ? (size_t)(end - data) + 1 : length + 1;
    }
    if (length < whole) {
        *blank = '\n';
        return 0;
    }
    field = header(data, "receipt-id");
    if (!strncmp(data, "MESSAGE", 7)) {
        uint64_t at = now();
        if (size >= 16 && whole - head > 16) {
            char stamp[17] = {0};
            memcpy(stamp, data + head, 16);
            record(&take_times, at - strtoull(stamp, NULL, 16));
        }
        if (!level) {
            done_takes++;
            last_done = at;
        }
        if (strcmp(ack, "auto")) {
            char *id = header(data, "ack"), frame[512];
            const char *form = "ACK\nid:%.*s\n\n";
            if (!id) {
                id = header(data, "message-id");
                form = "ACK\nsubscription:0\nmessage-id:%.*s\n\n";
            }
            if (id) {
                int framed = snprintf(frame, sizeof frame, form, (int)strcspn(id, "\n"), id);
                append(level ? &c->acks : &c->out, frame, (size_t)framed + 1);
            }
        }
    } else if (field && *field == 'p')
        put_done(c);
    else if (field && *field == 's')
        c->ready = 1;
    else if (!strncmp(data, "CONNECTED", 9)) {
        if (c->takes)
            subscribe(c);
        else
            c->ready = 1;
    } else
        wrong(data, whole);
    return whole;
}

/* -- sockets */

static void flush(struct connection *c)
{
    while (c->out.begin < c->out.end) {
        ssize_t sent = send(c->fd, c->out.data + c->out.begin, c->out.end - c->out.begin, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0)
            fail("a connection broke");
        c->out.begin += (size_t)sent;
    }
    if (c->out.begin == c->out.end)
        c->out.begin = c->out.end = 0;
    int unsent = c->out.begin < c->out.end;
    if (unsent != c->watches_out) {
        struct epoll_event event = {EPOLLIN | (unsent ? EPOLLOUT : 0), {.ptr = c}};
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event);
        c->watches_out = unsent;
    }
}

static void hear(struct connection *c)
{
    room_for(&c->in, 262144);
    ssize_t got = recv(c->fd, c->in.data + c->in.end, c->in.room - c->in.end, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("the server hung up");
    c->in.end += (size_t)got;
    c->in.data[c->in.end] = 0;
    while (c->in.begin < c->in.end) {
        char *data = c->in.data + c->in.begin;
        size_t length = c->in.end - c->in.begin, used;
        used = protocol == STOMP ? stomp_answer(c, data, length)
               : protocol == HTTP ? http_answer(c, data, length)
                                  : line_answer(c, data, length);
        if (!used)
            break;
        c->in.begin += used;
    }
    if (c->in.begin == c->in.end)
        c->in.begin = c->in.end = 0;
}

static void open_connection(struct connection *c)
{
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event);
    if (protocol == STOMP) {
        sayf(c, "CONNECT\naccept-version:%s\nhost:%s\n", versions, host);
        if (*login)
            sayf(c, "login:%s\npasscode:%s\n", login, passcode);
        say(c, "\n", 2);
        flush(c);
    } else
        c->ready = 1;
}

static void turn(int timeout_ms)
{
    struct epoll_event events[512];
    int found = epoll_wait(poll_fd, events, 512, timeout_ms);
    for (int i = 0; i < found; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c) {
            uint64_t ticks;
            if (read(exact, &ticks, sizeof ticks) < 0)
                continue;
            continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            hear(c);
        flush(c);
    }
}

/* Send what is due by the clock. */
static void send_due(void)
{
    static long sent;
    uint64_t at = now();
    double passed = (double)(at - began) / 1e9;
    if (passed > seconds)
        passed = seconds;
    while (asked_puts < count && (double)sent / rate < passed) {
        struct connection *c = connections + sent % (puts_only + both);
        put(c, began + (uint64_t)((double)sent / rate * 1e9));
        flush(c);
        sent++;
    }
    uint64_t next_at = began + (uint64_t)((double)sent / rate * 1e9);
    struct itimerspec due = {{0, 0}, {(time_t)(next_at / 1000000000u), (long)(next_at % 1000000000u)}};
    timerfd_settime(exact, TFD_TIMER_ABSTIME, &due, NULL);
}

static int finished(void)
{
    if (puts_only + both && (more_puts() || done_puts < asked_puts))
        return 0;
    if (takes_only && (puts_only || protocol == STOMP))
        return done_takes >= (puts_only ? fan ? done_puts * takes_only : done_puts : expected);
    for (int i = 0; i < all; i++)
        if (connections[i].first != connections[i].last)
            return 0;
    return 1;
}

static void setting(char *argument)
{
    char *value = strchr(argument, '=');
    if (!value)
        fail("settings are name=value");
    *value++ = 0;
    struct {
        const char *name;
        int *number;
    } numbers[] = {{"port", &port},     {"puts", &puts_only}, {"takes", &takes_only}, {"both", &both},
                   {"depth", &depth},   {"size", &size},      {"queues", &queues},    {"receipts", &receipts},
                   {"batch", &batch},   {"wait", &wait_ms},   {"prefetch", &prefetch},
                   {"fan", &fan},       {"hold", &hold},       {"level", &level}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(argument, numbers[i].name)) {
            *numbers[i].number = atoi(value);
            return;
        }
    struct {
        const char *name;
        const char **text;
    } texts[] = {{"queue", &queue},       {"ack", &ack},     {"login", &login},
                 {"passcode", &passcode}, {"host", &host},   {"suffix", &suffix}, {"extra", &extra},
                 {"versions", &versions}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(argument, texts[i].name)) {
            *texts[i].text = value;
            return;
        }
    if (!strcmp(argument, "count"))
        count = atol(value);
    else if (!strcmp(argument, "expected"))
        expected = atol(value);
    else if (!strcmp(argument, "seconds"))
        seconds = atof(value);
    else if (!strcmp(argument, "rate"))
        rate = atof(value);
    else
        fail("an unknown setting");
}

static void print_times(const char *name, const struct latencies *of)
{
    printf(", \"%s\": {\"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"max\": %.1f}", name, percentile(of, 0.5),
           percentile(of, 0.99), percentile(of, 0.999), (double)of->longest / 1e3);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        fail("usage: generator memcache|beanstalk|redis|stomp|http port=N [puts=N] [takes=N] [both=N] [depth=N] ...");
    for (protocol = 0; protocol < PROTOCOLS && strcmp(argv[1], names[protocol]); protocol++)
        ;
    if (protocol == PROTOCOLS)
        fail("an unknown protocol");
    for (int i = 2; i < argc; i++)
        setting(argv[i]);
    if (*extra) { /* a header in place of a line of the shell */
        char *line = malloc(strlen(extra) + 2);
        sprintf(line, "%s\n", extra);
        extra = line;
    }
    if (expected < 0)
        expected = puts_only ? LONG_MAX : count;
    body = malloc((size_t)size + 1);
    memset(body, 'x', (size_t)size);
    all = puts_only + takes_only + both;
    connections = calloc((size_t)all, sizeof *connections);
    poll_fd = epoll_create1(0);
    for (int i = 0; i < all; i++) {
        connections[i].puts = i < puts_only + both;
        connections[i].takes = i >= puts_only;
        open_connection(connections + i);
    }
    uint64_t patience = now() + 15000000000u;
    for (int ready = 0; ready < all;) {
        if (now() > patience)
            fail("the server does not answer");
        if (protocol == STOMP)
            turn(100);
        ready = 0;
        for (int i = 0; i < all; i++)
            ready += connections[i].ready;
    }
    if (hold) {
        puts("connected");
        fflush(stdout);
        getchar();
    }
    began = last_done = now();
    if (rate > 0) {
        exact = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        struct epoll_event event = {EPOLLIN, {.ptr = NULL}};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, exact, &event);
    }
    for (int i = 0; i < all; i++) {
        for (int slot = 0; slot < depth; slot++)
            next(connections + i);
        flush(connections + i);
    }
    /* What is under way at the end gets as long again, and not less than five seconds. */
    uint64_t end = began + (uint64_t)((seconds * 2 > seconds + 5 ? seconds * 2 : seconds + 5) * 1e9);
    int cut = 0;
    while (!finished()) {
        if (rate > 0)
            send_due();
        if (protocol == STOMP && !receipts)
            for (int i = 0; i < puts_only; i++) {
                struct connection *c = connections + i;
                while (more_puts() && c->out.end - c->out.begin < 65536)
                    put(c, now());
                flush(c);
            }
        turn(protocol == STOMP && !receipts && more_puts() ? 0 : 20);
        if (level) {
            level_out();
            for (int i = 0; i < all; i++)
                flush(connections + i);
        }
        uint64_t at = now();
        if (at > end || (at - began > (uint64_t)(seconds * 1e9) && !puts_only && !both)) {
            cut = 1;
            break;
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec +
                 (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    double passed = (double)(last_done - began) / 1e9;
    printf("{\"puts\": %ld, \"takes\": %ld, \"seconds\": %.4f, \"cpu\": %.4f, \"errors\": %ld, \"empty\": %ld, \"cut\": %s",
           done_puts, done_takes, passed, cpu, errors, empty, cut ? "true" : "false");
    if (put_times.seen)
        print_times("put", &put_times);
    if (take_times.seen)
        print_times("take", &take_times);
    printf("}\n");
    return errors != 0;
}
