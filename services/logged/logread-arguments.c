/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <time.h>

#include "logread.h"

static void help(void)
{
    puts(
        "h-logread [OPTIONS…] [FIELD=VALUE…]\n\n"
        "Shows the log of the device.\n\n"
        "  -f, --follow            Go on with what comes (begins with the last 10 records)\n"
        "  -n, --lines=N           The last N records\n"
        "  -r, --reverse           Newest first\n"
        "  -e, --pager-end         The last 1000 records, and the pager at their end\n"
        "  -u, --unit=UNIT         Of this unit (\"httpd\" is h-httpd.service; globs); may repeat\n"
        "  -t, --identifier=NAME   Of this program\n"
        "  -p, --priority=LEVEL    This and worse: emerg alert crit err warning notice info debug\n"
        "  -k, --dmesg             Of the kernel, since it was booted\n"
        "  -S, --since=TIME        \"2026-11-24 15:00\", \"15:00\", \"-2h\", \"2 hours ago\", "
        "\"yesterday\"\n"
        "  -U, --until=TIME\n"
        "  -g, --grep=TEXT         With this text in the message\n"
        "  -b, --boot[=ID|N]       Of this boot; -1 is the one before\n"
        "      --list-boots        The boots of which there are records\n"
        "      --after-cursor=N    After this record\n"
        "      --audit             The audit of h-securityd instead of the log\n"
        "  -o, --output=FORMAT     short (default), short-iso, short-precise, short-monotonic, "
        "verbose,\n"
        "                          json, cat\n"
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

int logread_filter(logread_options *o, const char *name, const char *value)
{
    struct timespec now;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    r = log_filter_set(&o->filter, name, value, (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u);
    if (r < 0 || o->n_given + 2 > ELEMENTS(o->given)) {
        fprintf(stderr, "h-logread: \"%s\" is no value for %s\n", value, name);
        return -EINVAL;
    }
    o->given[o->n_given++] = (char *)name;
    o->given[o->n_given++] = strdup(value);
    return o->given[o->n_given - 1] ? 0 : -ENOMEM;
}

/* Times are local here, and the daemon's zone is none of our business. */
static int give_time(logread_options *o, const char *name, const char *value)
{
    char text[40];
    int r = logread_filter(o, name, value);

    if (r < 0)
        return r;
    snprintf(text, sizeof(text), "%.6f",
             (double)(name[0] == 's' ? o->filter.since : o->filter.until) / 1e6);
    free(o->given[o->n_given - 1]);
    o->given[o->n_given - 1] = strdup(text);
    return o->given[o->n_given - 1] ? 0 : -ENOMEM;
}

static int parse_lines(logread_options *o, const char *value)
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

static int parse_colour(logread_options *o, const char *value)
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

static int parse_format(logread_options *o, const char *value)
{
    const char *kind = startswith(value, "short-");
    int r = log_format_parse(kind ? "short" : value, &o->look.format);

    o->look.iso = kind && streq(kind, "iso");
    o->look.precise = kind && streq(kind, "precise");
    o->look.uptime = kind && streq(kind, "monotonic");
    if (kind && !o->look.iso && !o->look.precise && !o->look.uptime)
        r = -EINVAL;
    if (r >= 0 && o->look.format != LOG_FORMAT_RECORD)
        return 0;
    fprintf(stderr, "h-logread: --output takes short, short-iso, short-precise, "
                    "short-monotonic, verbose, json or cat\n");
    return -EINVAL;
}

/* "-b", "-b -1", "-b ID": what follows may be the next argument, as with journalctl. */
static int parse_boot(logread_options *o, char *argv[])
{
    const char *value = optarg ? optarg : argv[optind];
    char *end;
    long n;

    if (!optarg && value && strlen(value) != 32 &&
        (!*value || strspn(value, "+-0123456789") != strlen(value)))
        value = NULL;
    if (!optarg && value)
        optind++;
    if (value && strlen(value) == 32)
        return logread_filter(o, "boot", value);
    n = value ? strtol(value, &end, 10) : 0;
    if (value && (end == value || *end || n < -1000 || n > 1000)) {
        fprintf(stderr, "h-logread: \"%s\" is neither a number nor the id of a boot\n", value);
        return -EINVAL;
    }
    o->has_boot = true;
    o->boot = n;
    return 0;
}

/* Any of them, when there are several. */
static int add_unit(logread_options *o, const char *value)
{
    char all[LOG_FILTER_TEXT_MAX + 1];

    for (size_t i = 0; i < o->n_given; i += 2) {
        char *copy;
        if (!streq(o->given[i], "unit"))
            continue;
        if (snprintf(all, sizeof(all), "%s %s", o->given[i + 1], value) >= (int)sizeof(all) ||
            log_filter_set(&o->filter, "unit", all, 0) < 0)
            return -E2BIG;
        copy = strdup(all);
        if (!copy)
            return -ENOMEM;
        free(o->given[i + 1]);
        o->given[i + 1] = copy;
        return 0;
    }
    return logread_filter(o, "unit", value);
}

enum {
    ARG_AUDIT = 256,
    ARG_LIST_BOOTS,
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

static int set_option(logread_options *o, int c, char *argv[])
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
        return add_unit(o, optarg);
    case 'e':
        o->pager_end = true;
        return 0;
    case 'k':
        o->has_boot = true;
        return logread_filter(o, "source", "kernel");
    case 't':
        return logread_filter(o, "identifier", optarg);
    case 'p':
        return logread_filter(o, "priority", optarg);
    case 'S':
        return give_time(o, "since", optarg);
    case 'U':
        return give_time(o, "until", optarg);
    case 'g':
        return logread_filter(o, "text", optarg);
    case 'b':
        return parse_boot(o, argv);
    case ARG_LIST_BOOTS:
        o->list_boots = true;
        return 0;
    case 'o':
        return parse_format(o, optarg);
    case ARG_CURSOR:
        return logread_filter(o, "cursor", optarg);
    case ARG_AUDIT:
        return logread_filter(o, "audit", "1");
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

int logread_arguments(logread_options *o, int argc, char *argv[])
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
        {"boot", optional_argument, NULL, 'b'},
        {"list-boots", no_argument, NULL, ARG_LIST_BOOTS},
        {"dmesg", no_argument, NULL, 'k'},
        {"pager-end", no_argument, NULL, 'e'},
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

    while ((c = getopt_long(argc, argv, "fn:reku:t:p:S:U:g:b::o:h", options, NULL)) >= 0) {
        if (c == 'h') {
            help();
            return 0;
        }
        if (c == ARG_VERSION) {
            puts("h-logread (HybridOS) " PROJECT_VERSION);
            return 0;
        }
        r = set_option(o, c, argv);
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
    if (o->pager_end && !o->has_lines) {
        o->has_lines = true;
        o->lines = 1000;
    }
    if (o->follow && !o->has_lines && !o->filter.since && !o->filter.after) {
        o->has_lines = true;
        o->lines = 10;
    }
    return 1;
}

void logread_options_done(logread_options *o)
{
    log_filter_done(&o->filter);
    for (size_t i = 1; i < o->n_given; i += 2)
        free(o->given[i]);
}
