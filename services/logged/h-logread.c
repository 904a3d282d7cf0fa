/* SPDX-License-Identifier: Apache-2.0 */

/* h-logread: the log of the device for people. Asks h-logged, or reads a ring's file by itself. */

#include <getopt.h>
#include <hybus/error.h>
#include <signal.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <time.h>

#include "log-format.h"

#define NAME "org.hybridos.Log1"
#define PATH "/org/hybridos/Log1"
#define LINES_MAX 100000u /* that are kept to be turned around */
#define BUFFER (256u * 1024u)

typedef struct Options {
    log_filter filter; /* for files; `given` for the daemon */
    char *given[2 * 64];
    size_t n_given;
    log_look look;
    uint64_t lines;
    const char *file;
    bool has_lines, follow, reverse, pager, sync, statistics, show_cursor;
} Options;

typedef struct Output {
    const Options *options;
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

static int call(sd_bus *bus, const Options *o, const char *method, const char *const *more,
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
    const Options *options = o->options;
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

/* --- the pager
 * ---------------------------------------------------------------------------------------- */

static pid_t start_pager(void)
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
        setenv("LESS", "FRSXMK", false);
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

/* --- arguments
 * ------------------------------------------------------------------------------------------ */

static void help(void)
{
    puts(
        "h-logread [OPTIONS…] [FIELD=VALUE…]\n\n"
        "Shows the log of the device.\n\n"
        "  -f, --follow            Go on with what comes (begins with the last 10 records)\n"
        "  -n, --lines=N           The last N records\n"
        "  -r, --reverse           Newest first\n"
        "  -u, --unit=UNIT         Of this unit (\"httpd\" is h-httpd.service; globs)\n"
        "  -t, --identifier=NAME   Of this program\n"
        "  -p, --priority=LEVEL    This and worse: emerg alert crit err warning notice info debug\n"
        "  -S, --since=TIME        \"2026-11-24 15:00\", \"-2h\", \"yesterday\", seconds since "
        "1970\n"
        "  -U, --until=TIME\n"
        "  -g, --grep=TEXT         With this text in the message\n"
        "  -b, --boot=ID           Of this boot\n"
        "      --after-cursor=N    After this record\n"
        "      --audit             The audit of h-securityd instead of the log\n"
        "  -o, --output=FORMAT     short (default), verbose, json, cat\n"
        "      --utc               Times in UTC\n"
        "      --color=WHEN        auto (default), always, never\n"
        "      --no-pager\n"
        "      --show-cursor       Show the cursor of the last record at the end\n"
        "      --file=PATH         Read this ring, without the daemon\n"
        "      --sync              Get everything onto the disk first\n"
        "      --statistics        Show counters\n"
        "  -h, --help\n"
        "      --version");
}

static int give(Options *o, const char *name, const char *value)
{
    struct timespec now;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    r = log_filter_set(&o->filter, name, value, (uint64_t)now.tv_sec * 1000000u);
    if (r < 0 || o->n_given + 2 > ELEMENTS(o->given)) {
        fprintf(stderr, "h-logread: \"%s\" is no value for %s\n", value, name);
        return -EINVAL;
    }
    o->given[o->n_given++] = (char *)name;
    o->given[o->n_given++] = strdup(value);
    return o->given[o->n_given - 1] ? 0 : -ENOMEM;
}

/* Times are local here, and the daemon's zone is none of our business. */
static int give_time(Options *o, const char *name, const char *value)
{
    char text[40];
    int r = give(o, name, value);

    if (r < 0)
        return r;
    snprintf(text, sizeof(text), "%.6f",
             (double)(name[0] == 's' ? o->filter.since : o->filter.until) / 1e6);
    free(o->given[o->n_given - 1]);
    o->given[o->n_given - 1] = strdup(text);
    return o->given[o->n_given - 1] ? 0 : -ENOMEM;
}

static int parse_lines(Options *o, const char *value)
{
    char *end;
    unsigned long long n = strtoull(value, &end, 10);

    if (value[0] < '0' || value[0] > '9' || *end || n > LINES_MAX) {
        fprintf(stderr, "h-logread: --lines takes a number up to %u\n", LINES_MAX);
        return -EINVAL;
    }
    o->lines = n;
    o->has_lines = true;
    return 0;
}

static int parse_colour(Options *o, const char *value)
{
    if (streq(value, "always") || streq(value, "never")) {
        o->look.colours = *value == 'a';
        return 0;
    }
    if (streq(value, "auto"))
        return 0;
    fprintf(stderr, "h-logread: --color takes auto, always or never\n");
    return -EINVAL;
}

static int parse_format(Options *o, const char *value)
{
    int r = log_format_parse(value, &o->look.format);

    if (r >= 0 && o->look.format != LOG_FORMAT_RECORD)
        return 0;
    fprintf(stderr, "h-logread: --output takes short, verbose, json or cat\n");
    return -EINVAL;
}

enum {
    ARG_AUDIT = 256,
    ARG_UTC,
    ARG_COLOUR,
    ARG_NO_PAGER,
    ARG_FILE,
    ARG_SYNC,
    ARG_STATISTICS,
    ARG_VERSION,
    ARG_CURSOR,
    ARG_SHOW_CURSOR
};

static int set_option(Options *o, int c)
{
    switch (c) {
    case 'f':
        o->follow = true;
        return 0;
    case 'n':
        return parse_lines(o, optarg);
    case 'r':
        o->reverse = true;
        return 0;
    case 'u':
        return give(o, "unit", optarg);
    case 't':
        return give(o, "identifier", optarg);
    case 'p':
        return give(o, "priority", optarg);
    case 'S':
        return give_time(o, "since", optarg);
    case 'U':
        return give_time(o, "until", optarg);
    case 'g':
        return give(o, "text", optarg);
    case 'b':
        return give(o, "boot", optarg);
    case 'o':
        return parse_format(o, optarg);
    case ARG_CURSOR:
        return give(o, "cursor", optarg);
    case ARG_AUDIT:
        return give(o, "audit", "1");
    case ARG_UTC:
        o->look.utc = true;
        return 0;
    case ARG_COLOUR:
        return parse_colour(o, optarg);
    case ARG_NO_PAGER:
        o->pager = false;
        return 0;
    case ARG_FILE:
        o->file = optarg;
        return 0;
    case ARG_SYNC:
        o->sync = true;
        return 0;
    case ARG_STATISTICS:
        o->statistics = true;
        return 0;
    case ARG_SHOW_CURSOR:
        o->show_cursor = true;
        return 0;
    default:
        return -EINVAL;
    }
}

static int parse_arguments(Options *o, int argc, char *argv[])
{
    static const struct option options[] = {
        {"follow", no_argument, NULL, 'f'},
        {"lines", required_argument, NULL, 'n'},
        {"reverse", no_argument, NULL, 'r'},
        {"unit", required_argument, NULL, 'u'},
        {"identifier", required_argument, NULL, 't'},
        {"priority", required_argument, NULL, 'p'},
        {"since", required_argument, NULL, 'S'},
        {"until", required_argument, NULL, 'U'},
        {"grep", required_argument, NULL, 'g'},
        {"boot", required_argument, NULL, 'b'},
        {"output", required_argument, NULL, 'o'},
        {"after-cursor", required_argument, NULL, ARG_CURSOR},
        {"show-cursor", no_argument, NULL, ARG_SHOW_CURSOR},
        {"audit", no_argument, NULL, ARG_AUDIT},
        {"utc", no_argument, NULL, ARG_UTC},
        {"color", required_argument, NULL, ARG_COLOUR},
        {"no-pager", no_argument, NULL, ARG_NO_PAGER},
        {"file", required_argument, NULL, ARG_FILE},
        {"sync", no_argument, NULL, ARG_SYNC},
        {"statistics", no_argument, NULL, ARG_STATISTICS},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, ARG_VERSION},
        {0},
    };
    char fields[4096] = "";
    int c, r;

    while ((c = getopt_long(argc, argv, "fn:ru:t:p:S:U:g:b:o:h", options, NULL)) >= 0) {
        if (c == 'h') {
            help();
            return 0;
        }
        if (c == ARG_VERSION) {
            puts("h-logread (HybridOS) " PROJECT_VERSION);
            return 0;
        }
        r = set_option(o, c);
        if (r < 0)
            return r;
    }
    for (; optind < argc; optind++) {
        size_t used = strlen(fields);
        if (log_filter_set(&o->filter, "field", argv[optind], 0) < 0 ||
            strchr(argv[optind], '\n') || used + strlen(argv[optind]) + 2 > sizeof(fields)) {
            fprintf(stderr, "h-logread: \"%s\" is not FIELD=VALUE\n", argv[optind]);
            return -EINVAL;
        }
        snprintf(fields + used, sizeof(fields) - used, "%s%s", used ? "\n" : "", argv[optind]);
    }
    if (*fields && o->n_given + 2 <= ELEMENTS(o->given)) {
        o->given[o->n_given++] = (char *)"field";
        o->given[o->n_given++] = strdup(fields);
    }
    if (o->follow && (o->reverse || o->file)) {
        fprintf(stderr, "h-logread: --follow goes neither with --reverse nor with --file\n");
        return -EINVAL;
    }
    if (o->follow && !o->has_lines && !o->filter.since && !o->filter.after) {
        o->has_lines = true;
        o->lines = 10;
    }
    return 1;
}

static int run(Options *o)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    Output output = {.options = o};
    int r = 0;

    if (o->file)
        r = from_file(&output);
    else {
        r = sd_bus_open_system(&bus);
        if (r < 0)
            return complain(r, "cannot reach the bus; --file reads a ring without it");
        if (o->sync)
            r = synchronise(bus);
        if (r >= 0 && o->statistics)
            return statistics(bus);
        if (r >= 0)
            r = from_daemon(bus, &output);
    }
    flush(&output);
    if (r >= 0 && o->show_cursor && output.cursor > 0)
        printf("-- cursor: %llu\n", (unsigned long long)output.cursor);
    (void)fflush(stdout);
    log_text_done(&output.text);
    return r;
}

int main(int argc, char *argv[])
{
    Options o = {.look = {.format = LOG_FORMAT_SHORT, .secrets = true}, .pager = true};
    pid_t pager = 0;
    int r;

    (void)signal(SIGPIPE, SIG_IGN); /* whoever reads us may stop at any time */
    o.look.colours = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    r = parse_arguments(&o, argc, argv);
    if (r > 0) {
        if (o.pager && !o.follow && !o.statistics && isatty(STDOUT_FILENO))
            pager = start_pager();
        r = run(&o);
    }
    if (pager > 0) {
        fclose(stdout);
        while (waitpid(pager, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    log_filter_done(&o.filter);
    for (size_t i = 1; i < o.n_given; i += 2)
        free(o.given[i]);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
