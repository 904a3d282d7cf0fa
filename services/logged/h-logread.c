/* SPDX-License-Identifier: Apache-2.0 */

/* h-logread: the log of the device for people. Asks h-logged, or reads a ring's file by itself. */

#include <hybus/error.h>
#include <signal.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <time.h>

#include "logread.h"

#define NAME "org.hybridos.Log1"
#define PATH "/org/hybridos/Log1"
#define BUFFER (256u * 1024u)

typedef struct Output {
    const logread_options *options;
    log_text text;
    uint64_t cursor, printed;
    bool failed;
} Output;

static int complain(int r, const char *what)
{
    fprintf(stderr, "h-logread: %s: %s\n", what, strerror(-r));
    return r;
}

/* --- printing -----------------------------------------------------------------------------------
 */

static void flush(Output *o)
{
    if (fwrite(o->text.data, 1, o->text.size, stdout) != o->text.size || fflush(stdout) != 0)
        o->failed = true;
    o->text.size = 0;
}

static void print(Output *o, const log_found *found)
{
    log_format_record(&o->text, found, &o->options->look);
    o->cursor = found->record->seq;
    o->printed++;
    if (o->text.size > BUFFER / 4 || o->text.failed)
        flush(o);
    if (o->text.failed)
        o->failed = true;
}

/* --- from the daemon
 * ------------------------------------------------------------------------------ */

static int call(sd_bus *bus, const logread_options *o, const char *method, const char *const *more,
                int *ret_fd)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    int r, fd;

    r = sd_bus_message_new_method_call(bus, &m, NAME, PATH, NAME, method);
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'a', "{ss}");
    for (size_t i = 0; r >= 0 && i < o->n_given; i += 2)
        r = sd_bus_message_append(m, "{ss}", o->given[i], o->given[i + 1]);
    for (; r >= 0 && more && more[0]; more += 2)
        r = sd_bus_message_append(m, "{ss}", more[0], more[1]);
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    if (r >= 0)
        r = sd_bus_message_append(m, "s", "record");
    if (r >= 0)
        r = sd_bus_call(bus, m, 0, &error, &reply);
    if (r >= 0)
        r = sd_bus_message_read(reply, "h", &fd);
    if (r >= 0) {
        *ret_fd = dup(fd);
        return *ret_fd < 0 ? -errno : 0;
    }
    fprintf(stderr, "h-logread: %s\n", error.message ? error.message : strerror(-r));
    return r;
}

/* Calls back for each record of a pipe. */
typedef int (*on_record)(const log_wire *wire, const log_record *r, void *userdata);

static int read_pipe(int fd, on_record f, void *userdata)
{
    static uint64_t aligned[BUFFER / 8];
    uint8_t *buffer = (uint8_t *)aligned;
    size_t have = 0, at;
    ssize_t n;
    int r = 0;

    while (r >= 0 && (n = read(fd, buffer + have, sizeof(aligned) - have)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        have += (size_t)n;
        for (at = 0; r >= 0 && have - at >= sizeof(log_wire) + sizeof(log_record);) {
            static uint64_t whole[(LOG_RECORD_MAX + 7) / 8];
            log_wire wire;
            uint32_t size;

            memcpy(&wire, buffer + at, sizeof(wire));
            memcpy(&size, buffer + at + sizeof(wire) + offsetof(log_record, size), sizeof(size));
            if (size < sizeof(log_record) || size > LOG_RECORD_MAX || wire.stream >= LOG_STREAMS)
                return -EBADMSG;
            if (have - at < sizeof(wire) + size)
                break;
            memcpy(whole, buffer + at + sizeof(wire), size);
            r = f(&wire, (const log_record *)whole, userdata);
            at += sizeof(wire) + size;
        }
        memmove(buffer, buffer + at, have - at);
        have -= at;
    }
    return r;
}

static int print_record(const log_wire *wire, const log_record *r, void *userdata)
{
    static const uint8_t unknown[16];
    Output *o = userdata;
    log_found found = {.record = r, .stream = (log_stream)wire->stream};

    if (wire->missed > 0) {
        log_format_gap(&o->text, wire->missed, &o->options->look);
        return 0;
    }
    if (memcmp(wire->boot, unknown, sizeof(unknown)) != 0)
        found.boot = wire->boot;
    print(o, &found);
    if (o->options->follow)
        flush(o);
    return o->failed ? -EPIPE : 0;
}

typedef struct Kept {
    log_wire wire;
    log_record *record;
} Kept;

typedef struct Keep {
    Kept *list;
    size_t n, allocated;
} Keep;

static int keep_record(const log_wire *wire, const log_record *r, void *userdata)
{
    Keep *k = userdata;

    if (k->n == k->allocated) {
        size_t more = k->allocated ? 2 * k->allocated : 256;
        Kept *list = reallocarray(k->list, more, sizeof(*list));
        if (!list)
            return -ENOMEM;
        k->list = list;
        k->allocated = more;
    }
    k->list[k->n].wire = *wire;
    k->list[k->n].record = malloc(r->size);
    if (!k->list[k->n].record)
        return -ENOMEM;
    memcpy(k->list[k->n++].record, r, r->size);
    return 0;
}

/* The newest N, oldest first. */
static int print_last(sd_bus *bus, Output *o)
{
    _cleanup_(closep) int fd = -1;
    char limit[24];
    const char *more[] = {"reverse", "1", "limit", limit, NULL};
    Keep kept = {};
    int r;

    snprintf(limit, sizeof(limit), "%llu", (unsigned long long)o->options->lines);
    r = call(bus, o->options, "Stream", more, &fd);
    if (r >= 0) {
        r = read_pipe(fd, keep_record, &kept);
        if (r < 0)
            (void)complain(r, "cannot read the records");
    }
    while (r >= 0 && kept.n > 0) {
        kept.n--;
        r = print_record(&kept.list[kept.n].wire, kept.list[kept.n].record, o);
        free(kept.list[kept.n].record);
    }
    free(kept.list);
    return r;
}

static int print_pipe(sd_bus *bus, Output *o, const char *method, const char *const *more)
{
    _cleanup_(closep) int fd = -1;
    int r = call(bus, o->options, method, more, &fd);

    if (r < 0)
        return r;
    flush(o);
    r = read_pipe(fd, print_record, o);
    if (r < 0 && r != -EPIPE)
        (void)complain(r, "cannot read the records");
    return r == -EPIPE ? 0 : r;
}

static int from_daemon(sd_bus *bus, Output *o)
{
    const logread_options *options = o->options;
    char cursor[24], limit[24];
    const char *more[8] = {NULL};
    size_t n = 0;
    int r = 0;

    if (options->has_lines && !options->reverse) {
        r = options->lines > 0 ? print_last(bus, o) : 0; /* 0 would be no limit */
        if (r < 0 || !options->follow)
            return r;
    } else if (options->has_lines) {
        snprintf(limit, sizeof(limit), "%llu", (unsigned long long)options->lines);
        more[n++] = "limit";
        more[n++] = limit;
    }
    if (options->reverse) {
        more[n++] = "reverse";
        more[n++] = "1";
    }
    if (options->follow && o->cursor > 0) {
        snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)o->cursor);
        more[n++] = "cursor";
        more[n++] = cursor;
    }
    r = print_pipe(bus, o, options->follow ? "Follow" : "Stream", more);
    if (r >= 0 && options->follow && !o->failed) {
        fprintf(stderr, "h-logread: h-logged has ended the stream\n");
        return -EPIPE;
    }
    return r;
}

static int statistics(sd_bus *bus)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    const char *name;
    uint64_t value;
    int r = sd_bus_call_method(bus, NAME, PATH, NAME, "GetStatistics", &error, &reply, NULL);

    if (r >= 0)
        r = sd_bus_message_enter_container(reply, 'a', "{st}");
    while (r >= 0 && (r = sd_bus_message_read(reply, "{st}", &name, &value)) > 0)
        printf("%-24s %llu\n", name, (unsigned long long)value);
    if (r < 0)
        fprintf(stderr, "h-logread: %s\n", error.message ? error.message : strerror(-r));
    return r;
}

static int synchronise(sd_bus *bus)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    int r = sd_bus_call_method(bus, NAME, PATH, NAME, "Sync", &error, NULL, NULL);

    if (r < 0)
        fprintf(stderr, "h-logread: %s\n", error.message ? error.message : strerror(-r));
    return r;
}

/* --- from a file
 * ------------------------------------------------------------------------------------ */

static int from_file(Output *o)
{
    const log_filter *filter = &o->options->filter;
    _cleanup_(freep) void *bytes = NULL;
    _cleanup_(log_file_done) log_file f = {};
    uint64_t size, skip = 0, limit = UINT64_MAX;
    size_t matching = 0;
    bool reverse = o->options->reverse;
    int r = log_file_read(o->options->file, &bytes, &size);

    if (r >= 0)
        r = log_file_scan(bytes, size, &f);
    if (r == -EBADMSG || r == -EPROTONOSUPPORT) {
        fprintf(stderr, "h-logread: %s is %s\n", o->options->file,
                r == -EBADMSG ? "not a ring of h-logged" : "of a later version");
        return r;
    }
    if (r < 0)
        return complain(r, o->options->file);
    if (f.lost > 0)
        fprintf(stderr, "h-logread: %llu records are missing or damaged\n",
                (unsigned long long)f.lost);
    for (size_t i = 0; i < f.n; i++)
        matching += log_filter_matches(filter, log_file_record(&f, i), f.head);
    if (o->options->has_lines && reverse)
        limit = o->options->lines;
    else if (o->options->has_lines && matching > o->options->lines)
        skip = matching - o->options->lines;
    for (size_t i = 0; i < f.n && limit > 0 && !o->failed; i++) {
        const log_record *record = log_file_record(&f, reverse ? f.n - 1 - i : i);
        log_found found = {.record = record, .boot = log_file_boot_id(f.head, record->boot)};
        if (!log_filter_matches(filter, record, f.head) ||
            (filter->after && record->seq <= filter->after) || (skip > 0 && skip--))
            continue;
        print(o, &found);
        limit--;
    }
    return 0;
}

/* --- boots
 * ---------------------------------------------------------------------------------------- */

typedef struct Boot {
    uint8_t id[16];
    uint64_t first, last; /* real time of its records */
} Boot;

typedef struct Boots {
    Boot list[256];
    size_t n;
} Boots;

static int count_boot(const log_wire *wire, const log_record *r, void *userdata)
{
    static const uint8_t unknown[16];
    Boots *b = userdata;

    if (wire->missed > 0 || memcmp(wire->boot, unknown, sizeof(unknown)) == 0)
        return 0;
    if (b->n == 0 || memcmp(b->list[b->n - 1].id, wire->boot, sizeof(wire->boot)) != 0) {
        if (b->n == ELEMENTS(b->list))
            memmove(b->list, b->list + 1, --b->n * sizeof(b->list[0]));
        b->list[b->n] = (Boot){.first = r->realtime};
        memcpy(b->list[b->n++].id, wire->boot, sizeof(wire->boot));
    }
    b->list[b->n - 1].last = r->realtime;
    return 0;
}

static int boots_of_file(const char *path, Boots *b)
{
    _cleanup_(freep) void *bytes = NULL;
    _cleanup_(log_file_done) log_file f = {};
    uint64_t size;
    int r = log_file_read(path, &bytes, &size);

    if (r >= 0)
        r = log_file_scan(bytes, size, &f);
    for (size_t i = 0; r >= 0 && i < f.n; i++) {
        const log_record *record = log_file_record(&f, i);
        const uint8_t *id = log_file_boot_id(f.head, record->boot);
        log_wire wire = {};
        if (id)
            memcpy(wire.boot, id, sizeof(wire.boot));
        (void)count_boot(&wire, record, b);
    }
    return r < 0 ? complain(r, path) : 0;
}

/* Of all records, oldest first; `newest`: the last one alone. */
static int find_boots(sd_bus *bus, const logread_options *o, bool newest, Boots *b)
{
    const char *more[] = {"reverse", "1", "limit", "1", NULL};
    static const logread_options everything;
    _cleanup_(closep) int fd = -1;
    int r;

    if (o->file)
        return boots_of_file(o->file, b);
    r = call(bus, &everything, "Stream", newest ? more : NULL, &fd);
    return r < 0 ? r : read_pipe(fd, count_boot, b);
}

static void boot_text(const Boot *b, char ret[33])
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(ret + 2 * i, 3, "%02x", b->id[i]);
}

static int list_boots(sd_bus *bus, const logread_options *o)
{
    static Boots b;
    char id[33], first[32], last[32];
    int r = find_boots(bus, o, false, &b);

    for (size_t i = 0; r >= 0 && i < b.n; i++) {
        const struct {
            uint64_t usec;
            char *text;
        } times[] = {{b.list[i].first, first}, {b.list[i].last, last}};
        for (size_t k = 0; k < 2; k++) {
            time_t t = (time_t)(times[k].usec / 1000000u);
            struct tm tm;
            (void)(o->look.utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm));
            (void)strftime(times[k].text, 32, "%Y-%m-%d %H:%M:%S", &tm);
        }
        boot_text(&b.list[i], id);
        printf("%3ld %s %s—%s\n", (long)i + 1 - (long)b.n, id, first, last);
    }
    return r;
}

/* Its id instead of its number. */
static int find_boot(sd_bus *bus, logread_options *o)
{
    static Boots b;
    char id[33];
    long i;
    int r = find_boots(bus, o, o->boot == 0, &b);

    if (r < 0)
        return r;
    i = o->boot > 0 ? o->boot - 1 : (long)b.n - 1 + o->boot;
    if (i < 0 || i >= (long)b.n) {
        fprintf(stderr, "h-logread: there are no records of boot %ld\n", o->boot);
        return -ENOENT;
    }
    boot_text(&b.list[i], id);
    return logread_filter(o, "boot", id);
}

/* --- the pager
 * ---------------------------------------------------------------------------------------- */

static pid_t start_pager(bool end)
{
    const char *pager = secure_getenv("H_LOGREAD_PAGER") ?: secure_getenv("PAGER") ?: "less";
    int fds[2];
    pid_t pid;

    if (!*pager || streq(pager, "cat") || pipe(fds) < 0)
        return 0;
    pid = fork();
    if (pid == 0) {
        dup2(fds[0], STDIN_FILENO);
        close(fds[0]);
        close(fds[1]);
        setenv("LESS", end ? "FRSXMK+G" : "FRSXMK", false);
        setenv("LESSSECURE", "1", true);
        execl("/bin/sh", "sh", "-c", pager, (char *)NULL);
        _exit(127);
    }
    if (pid > 0)
        dup2(fds[1], STDOUT_FILENO);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static int run(logread_options *o)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    Output output = {.options = o};
    int r = 0;

    if (!o->file) {
        r = sd_bus_open_system(&bus);
        if (r < 0)
            return complain(r, "cannot reach the bus; --file reads a ring without it");
        if (o->sync)
            r = synchronise(bus);
        if (r >= 0 && o->statistics)
            return statistics(bus);
    }
    if (r >= 0 && o->list_boots)
        return list_boots(bus, o);
    if (r >= 0 && o->has_boot)
        r = find_boot(bus, o);
    if (r >= 0)
        r = o->file ? from_file(&output) : from_daemon(bus, &output);
    flush(&output);
    if (r >= 0 && o->show_cursor && output.cursor > 0)
        printf("-- cursor: %llu\n", (unsigned long long)output.cursor);
    (void)fflush(stdout);
    log_text_done(&output.text);
    return r;
}

int main(int argc, char *argv[])
{
    logread_options o = {.look = {.format = LOG_FORMAT_SHORT, .secrets = true}, .pager = true};
    pid_t pager = 0;
    int r;

    (void)signal(SIGPIPE, SIG_IGN); /* whoever reads us may stop at any time */
    o.look.colours = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    r = logread_arguments(&o, argc, argv);
    if (r > 0) {
        if (o.pager && !o.follow && !o.statistics && isatty(STDOUT_FILENO))
            pager = start_pager(o.pager_end);
        r = run(&o);
    }
    if (pager > 0) {
        fclose(stdout);
        while (waitpid(pager, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    logread_options_done(&o);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
