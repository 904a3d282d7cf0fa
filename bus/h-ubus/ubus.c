/* SPDX-License-Identifier: Apache-2.0 */
#include "ubus.h"

#include <getopt.h>

static const struct verb {
    const char *name, *arguments, *help,
        *options; /* short options that it takes, besides the common */
    int least, most;
    int (*run)(ubus *u, int argc, char *argv[]);
} verbs[] = {
    {"list", "[PATTERN]", "names on the bus; with -o objects, with -v typed members", "vao", 0, 1,
     verb_list},
    {"call", "NAME [PATH] [INTERFACE.]METHOD [JSON]", "call a method", "s", 2, 4, verb_call},
    {"get", "NAME [PATH] [INTERFACE.]PROPERTY",
     "read a property; with -a NAME [PATH] INTERFACE: all", "a", 2, 3, verb_get},
    {"set", "NAME [PATH] [INTERFACE.]PROPERTY JSON", "write a property", "s", 3, 4, verb_set},
    {"listen", "[PATTERN]", "show signals whose INTERFACE.MEMBER matches", "n", 0, 1, verb_listen},
    {"subscribe", "NAME [INTERFACE]", "show the signals of one name, and when it comes and goes",
     "n", 1, 2, verb_subscribe},
    {"send", "PATH INTERFACE.SIGNAL [JSON]", "emit a signal", "sd", 2, 3, verb_send},
    {"wait_for", "NAME…", "wait until all names have owners", "", 1, 64, verb_wait_for},
    {"monitor", "[RULE…]", "show all messages (needs the right to monitor)", "n", 0, 64,
     verb_monitor},
    {"respond", "--endpoint=/NAME [--] COMMAND…", "answer requests with a command, as by CGI", "E",
     1, 256, verb_respond},
};

static const struct option options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {"address", required_argument, NULL, 'A'},
    {"user", no_argument, NULL, 'U'},
    {"system", no_argument, NULL, 'Y'},
    {"timeout", required_argument, NULL, 't'},
    {"compact", no_argument, NULL, 'S'},
    {"pretty", no_argument, NULL, 'P'},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {"all", no_argument, NULL, 'a'},
    {"objects", no_argument, NULL, 'o'},
    {"signature", required_argument, NULL, 's'},
    {"destination", required_argument, NULL, 'd'},
    {"count", required_argument, NULL, 'n'},
    {"interfaces", required_argument, NULL, 'I'},
    {"endpoint", required_argument, NULL, 'E'},
    {"for", required_argument, NULL, 'F'},
    {},
};
static const char short_options[] = "+ht:SPqvaos:d:n:";
static const char common[] = "hVAUYtSPqIF";

static int help(void)
{
    printf("h-ubus [OPTION…] VERB …\n\nTalk to services on the system bus, in JSON.\n\n");
    for (size_t i = 0; i < ELEMENTS(verbs); i++)
        printf("  %-10s%s\n            %s\n", verbs[i].name, verbs[i].arguments, verbs[i].help);
    printf("\n"
           "  -t, --timeout=SECONDS    how long to wait (25 for answers, for ever for signals)\n"
           "      --for=HANDLE         act for the principal of a request (HYBRIDOS_HANDLE)\n"
           "  -S, --compact            JSON in one line; the default unless on a terminal\n"
           "  -P, --pretty             JSON in several lines\n"
           "  -q, --quiet              no notes on standard error, only errors\n"
           "  -v, --verbose            list: typed members with permissions and documentation\n"
           "  -o, --objects            list: objects\n"
           "  -a, --all                list: unique names and standard interfaces too; get: all\n"
           "  -s, --signature=TYPES    call, set, send: of the arguments, without introspection\n"
           "  -d, --destination=NAME   send: to this name only\n"
           "  -n, --count=N            listen, subscribe, monitor: end after so many\n"
           "      --address=ADDRESS    another bus\n"
           "      --user, --system     bus of the user, or of the system (the default)\n"
           "      --endpoint=/NAME     respond: the namespace\n"
           "      --interfaces=DIR     read interface files here only\n"
           "      --help, --version\n\n"
           "Exit: 0 done, 1 remote error, 2 usage, 3 not found, 4 denied, 5 timeout, 6 no bus,\n"
           "7 local error. See h-ubus(1).\n");
    return UBUS_OK;
}

static bool parse_seconds(const char *text, uint64_t *ret)
{
    char *end;
    double d;

    errno = 0;
    d = strtod(text, &end);
    if (end == text || *end || errno || !(d >= 0) || d > 1e9)
        return false;
    *ret = (uint64_t)(d * 1e6);
    return true;
}

static bool parse_count(const char *text, uint64_t *ret)
{
    char *end;

    errno = 0;
    *ret = strtoull(text, &end, 10);
    return *text >= '1' && *text <= '9' && !*end && !errno;
}

/* 1: go on; 0: done; negative: the exit code. `given` collects the options seen. */
static int parse_options(ubus *u, int argc, char *argv[], char given[static 64])
{
    int c;

    optind = 0;
    while ((c = getopt_long(argc, argv, short_options, options, NULL)) >= 0) {
        size_t n = strlen(given);

        if (n < 63 && c != '?')
            given[n] = (char)c;
        switch (c) {
        case 'h':
            help();
            return 0;
        case 'V':
            printf("h-ubus %s\n", UBUS_VERSION);
            return 0;
        case 'A':
            u->address = optarg;
            break;
        case 'U':
            u->user = true;
            break;
        case 'Y':
            u->user = false;
            u->address = NULL;
            break;
        case 't':
            if (!parse_seconds(optarg, &u->timeout_usec))
                return -ubus_usage_error("'%s' is not a number of seconds", optarg);
            u->timeout_given = true;
            break;
        case 'S':
            u->pretty = false;
            break;
        case 'P':
            u->pretty = true;
            break;
        case 'q':
            u->quiet = true;
            break;
        case 'v':
            u->verbose = true;
            break;
        case 'a':
            u->all = true;
            break;
        case 'o':
            u->objects = true;
            break;
        case 's':
            u->signature = optarg;
            break;
        case 'd':
            u->destination = optarg;
            break;
        case 'n':
            if (!parse_count(optarg, &u->count))
                return -ubus_usage_error("'%s' is not a count", optarg);
            break;
        case 'F':
            if (!streq(optarg, "0") && !parse_count(optarg, &u->handle))
                return -ubus_usage_error("'%s' is not a handle", optarg);
            u->bound = true;
            break;
        case 'E':
            u->endpoint = optarg;
            break;
        case 'I':
            u->interfaces = optarg;
            break;
        default:
            return -UBUS_USAGE; /* getopt has said why */
        }
    }
    return 1;
}

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < ELEMENTS(verbs); i++)
        if (streq(verbs[i].name, name))
            return &verbs[i];
    return NULL;
}

static int run(ubus *u, int argc, char *argv[])
{
    const struct verb *v;
    char given[64] = "";
    int r = parse_options(u, argc, argv, given);

    if (r <= 0)
        return -r;
    argc -= optind;
    argv += optind;
    if (argc == 0)
        return ubus_usage_error("which verb? See h-ubus --help");
    v = find_verb(argv[0]);
    if (!v)
        return ubus_usage_error("'%s' is not a verb; see h-ubus --help", argv[0]);
    r = parse_options(u, argc, argv, given);
    if (r <= 0)
        return -r;
    for (const char *c = given; *c; c++)
        if (!strchr(common, *c) && !strchr(v->options, *c))
            return ubus_usage_error("%s does not take -%c", v->name, *c);
    argc -= optind;
    argv += optind;
    if (argc < v->least || argc > v->most)
        return ubus_usage_error("usage: h-ubus %s %s", v->name, v->arguments);
    return v->run(u, argc, argv);
}

int main(int argc, char *argv[])
{
    ubus u = {.timeout_usec = UBUS_TIMEOUT_USEC, .pretty = isatty(STDOUT_FILENO)};
    int code = run(&u, argc, argv);

    sd_bus_flush_close_unref(u.bus);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "h-ubus: the output could not be written\n");
        return code ? code : UBUS_LOCAL;
    }
    return code;
}
