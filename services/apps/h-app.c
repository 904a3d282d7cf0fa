/* SPDX-License-Identifier: Apache-2.0 */
/* h-app: apps with a uid and a sandbox of their own. It makes users and units, which is root's to
 * do; what an app may do it asks of h-securityd. */

#include <fcntl.h>
#include <getopt.h>
#include <hybus/file.h>
#include <hybus/json.h>

#include "../securityd/words.h"
#include "app-acts.h"

enum {
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_DENIED = 4,
};

typedef struct Options {
    bool json, keep_data, no_start, boot, grant_all;
    char **grants;
} Options;

typedef struct Verb {
    const char *name;
    int min, max; /* words after it; max -1: any number */
    int (*run)(const Options *o, char **words, int n);
    const char *usage, *help; /* help NULL: for the units alone */
} Verb;

static int exit_code(int r)
{
    switch (-r) {
    case 0:
        return EXIT_SUCCESS;
    case EINVAL:
        return EXIT_USAGE;
    case ENOENT:
        return EXIT_NOT_FOUND;
    case EACCES:
        return EXIT_DENIED;
    default:
        return r > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    }
}

/* --- manifests -------------------------------------------------------------------------------- */

static int read_manifest(const char *path, AppManifest *ret, json_t **ret_source)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    _cleanup_(freep) void *text = NULL;
    size_t size;
    int r = fd < 0 ? -errno : hybus_file_read(fd, APP_MANIFEST_MAX, &text, &size);

    if (r >= 0)
        r = app_manifest_parse(text, size, ret, ret_source, &e);
    if (r < 0)
        fprintf(stderr, "h-app: %s: %s\n", path, e.message ? e.message : strerror(-r));
    return r;
}

static AppConsent consent_of(const Options *o)
{
    return (AppConsent){.all = o->grant_all, .permissions = o->grants};
}

/* --- showing ---------------------------------------------------------------------------------- */

static int print_requests(Acts *a, const App *app)
{
    const AppManifest *m = &app->manifest;
    char user[APP_USER_SIZE];
    size_t missing = 0;
    int r = acts_bus(a);

    app_user(m->name, user);
    for (size_t i = 0; r >= 0 && i < m->n_requests; i++) {
        bool granted = false;

        r = app_policy_check(a->bus, user, m->requests[i].permission, &granted);
        missing += !granted;
        if (r >= 0)
            printf("  %-12s %s: %s\n", granted ? "granted" : "not granted",
                   m->requests[i].permission, m->requests[i].reason);
    }
    if (r >= 0 && missing)
        printf("to grant: h-app grant %s PERMISSION... (or --all)\n", m->name);
    return r;
}

static void print_app(const App *app)
{
    char user[APP_USER_SIZE];

    app_user(app->manifest.name, user);
    printf("%-24s %-10s %-31s uid %u", app->manifest.name, app_state_name(app->state), user,
           app->uid);
    if (*app->manifest.title)
        printf("  %s", app->manifest.title);
    putchar('\n');
}

static json_t *json_of(Acts *a, const App *app)
{
    const AppManifest *m = &app->manifest;
    char user[APP_USER_SIZE], unit[APP_UNIT_SIZE];
    json_t *requests = json_array();

    app_user(m->name, user);
    app_unit(m->name, unit);
    for (size_t i = 0; i < m->n_requests; i++) {
        bool granted = false;

        if (acts_bus(a) >= 0)
            (void)app_policy_check(a->bus, user, m->requests[i].permission, &granted);
        json_array_append_new(requests,
                              json_pack("{ss ss sb}", "permission", m->requests[i].permission,
                                        "reason", m->requests[i].reason, "granted", granted));
    }
    return json_pack("{ss ss sI ss ss so sO}", "name", m->name, "state", app_state_name(app->state),
                     "uid", (json_int_t)app->uid, "user", user, "unit", unit, "requests", requests,
                     "manifest", app->source);
}

static int print_json(json_t *value)
{
    _cleanup_(hybus_json_decrefp) json_t *mine = value;

    if (!mine || json_dumpf(mine, stdout, JSON_INDENT(2)) < 0)
        return -ENOMEM;
    putchar('\n');
    return 0;
}

static int verb_list(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    _cleanup_(hybus_json_decrefp) json_t *all = json_array();
    int r = acts_open(false, &a);

    for (size_t i = 0; r >= 0 && i < a.apps.n; i++)
        if (o->json)
            json_array_append_new(all, json_of(&a, &a.apps.list[i]));
        else
            print_app(&a.apps.list[i]);
    if (r < 0)
        return r;
    if (o->json)
        (void)print_json(json_incref(all));
    return a.apps.n_bad ? -EBADMSG : 0;
}

static int verb_show(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    App *app;
    int r = acts_open(false, &a);

    if (r >= 0)
        r = acts_find(&a, words[0], &app);
    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_of(&a, app));
    print_app(app);
    return print_requests(&a, app);
}

static int verb_check(const Options *o, char **words, int n)
{
    AppManifest m = {0};
    int r = read_manifest(words[0], &m, NULL);

    for (size_t i = 0; r >= 0 && i < m.n_requests; i++)
        printf("%s requests %s: %s\n", m.name, m.requests[i].permission, m.requests[i].reason);
    app_manifest_done(&m);
    return r;
}

/* --- changing --------------------------------------------------------------------------------- */

/* Installed is installed, also when it does not start: why says its log. */
static int start_and_tell(Acts *a, const Options *o, const App *app)
{
    int r = o->no_start ? 0 : acts_start(a, app);

    print_app(app);
    if (r < 0)
        fprintf(stderr, "h-app: it does not start: systemctl status h-app@%s\n",
                app->manifest.name);
    else
        r = print_requests(a, app);
    return r;
}

static int install(Acts *a, const Options *o, const char *path)
{
    _cleanup_(hybus_json_decrefp) json_t *source = NULL;
    const AppConsent consent = consent_of(o);
    AppManifest m = {0};
    App *app;
    int r = read_manifest(path, &m, &source);

    if (r >= 0)
        r = acts_install(a, &m, source, &consent, &app);
    app_manifest_done(&m);
    return r < 0 ? r : start_and_tell(a, o, app);
}

static int verb_install(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    int r = acts_open(true, &a);

    return r < 0 ? r : install(&a, o, words[0]);
}

/* One whose update was interrupted may be updated again. */
static int find_for_update(Acts *a, const char *name, App **ret)
{
    App *app = apps_find(&a->apps, name);

    if (!app || app->state != APP_UNFINISHED)
        return acts_find(a, name, ret);
    *ret = app;
    return 0;
}

static int update(Acts *a, const Options *o, const char *path)
{
    _cleanup_(hybus_json_decrefp) json_t *source = NULL;
    const AppConsent consent = consent_of(o);
    AppManifest m = {0};
    App *app;
    int r = read_manifest(path, &m, &source);

    if (r >= 0)
        r = find_for_update(a, m.name, &app);
    if (r >= 0)
        r = acts_update(a, app, &m, source, &consent);
    app_manifest_done(&m);
    return r < 0 ? r : start_and_tell(a, o, app);
}

static int verb_update(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    int r = acts_open(false, &a);

    return r < 0 ? r : update(&a, o, words[0]);
}

static int verb_remove(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    int r = acts_open(false, &a);
    App *app = r < 0 ? NULL : apps_find(&a.apps, words[0]);

    if (r >= 0 && !app) {
        fprintf(stderr, "h-app: there is no app %s\n", words[0]);
        return -ENOENT;
    }
    return r < 0 ? r : acts_remove(&a, app, o->keep_data);
}

static int verb_grant(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    const AppConsent consent = {.all = o->grant_all, .permissions = words + 1};
    App *app;
    int r = acts_open(false, &a);

    if (r >= 0 && n < 2 && !o->grant_all) {
        fprintf(stderr, "h-app: grant: which permissions? Or --all\n");
        return -EINVAL;
    }
    if (r >= 0)
        r = acts_find(&a, words[0], &app);
    if (r >= 0)
        r = acts_grant(&a, app, &consent);
    return r < 0 ? r : print_requests(&a, app);
}

static int verb_revoke(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    App *app;
    int r = acts_open(false, &a);

    if (r >= 0)
        r = acts_find(&a, words[0], &app);
    return r < 0 ? r : acts_revoke(&a, app, words + 1);
}

/* --- for the units ---------------------------------------------------------------------------- */

static int verb_publish(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    int r = acts_open(false, &a);

    return r < 0 ? r : acts_publish(&a);
}

static int verb_refresh(const Options *o, char **words, int n)
{
    _cleanup_(acts_done) Acts a = {.apps.lock = -1};
    int r = acts_open(false, &a);

    return r < 0 ? r : acts_refresh(&a, o->boot);
}

/* Asks without the registry, whose lock the one who starts the app may hold. */
static int verb_allowed(const Options *o, char **words, int n)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    char user[APP_USER_SIZE];
    bool allowed = false;
    int r;

    if (!app_name_is_valid(words[0]))
        return -EINVAL;
    app_user(words[0], user);
    r = app_policy_open(&bus);
    if (r >= 0)
        r = app_policy_check(bus, user, words[1], &allowed);
    if (r >= 0 && !allowed) {
        fprintf(stderr, "h-app: %s is not granted %s\n", user, words[1]);
        return -EACCES;
    }
    return r;
}

static const Verb verbs[] = {
    {"check", 1, 1, verb_check, "check MANIFEST", "is a manifest good, and what does it request"},
    {"install", 1, 1, verb_install, "install [--grant PERMISSION]... [--all] [--no-start] MANIFEST",
     "give an app a uid and a sandbox; nothing is granted but what you say"},
    {"update", 1, 1, verb_update, "update [--grant PERMISSION]... [--all] [--no-start] MANIFEST",
     "another manifest for the same app; what it requests no longer is revoked"},
    {"list", 0, 0, verb_list, "list", "all apps, with uid and state"},
    {"show", 1, 1, verb_show, "show NAME", "what an app requests, and what of it is granted"},
    {"grant", 1, -1, verb_grant, "grant NAME PERMISSION...",
     "of what it requests; --all: all of it"},
    {"revoke", 2, -1, verb_revoke, "revoke NAME PERMISSION...", "what was granted to it alone"},
    {"remove", 1, 1, verb_remove, "remove [--keep-data] NAME",
     "with its grants, its user and its files; its uid is never given out again"},
    {"publish", 0, 0, verb_publish, "publish", NULL},
    {"refresh", 0, 0, verb_refresh, "refresh [--boot]", NULL},
    {"allowed", 2, 2, verb_allowed, "allowed NAME PERMISSION", NULL},
};

static int help(void)
{
    printf("h-app [OPTION...] VERB ...\n\nApps with a uid and a sandbox of their own.\n\n");
    for (size_t i = 0; i < ELEMENTS(verbs); i++)
        if (verbs[i].help)
            printf("  %s\n        %s\n", verbs[i].usage, verbs[i].help);
    printf("\nOptions:\n"
           "  -j --json              list, show: answers as JSON\n"
           "     --grant PERMISSION  of the requested ones; may repeat\n"
           "     --all               all that the app requests\n"
           "     --no-start          do not start it now\n"
           "     --keep-data         its files stay, and wait with its uid for the next install\n"
           "  -h --help\n"
           "     --version\n\n"
           "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 denied. See "
           "/usr/share/doc/hybridos/apps.md.\n");
    return 0;
}

/* 1: go on; 0: help was shown. */
static int parse_options(int argc, char *argv[], Options *o)
{
    enum { GRANT = 256, ALL, NO_START, KEEP, BOOT, VERSION_ };
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION_},
        {"grant", required_argument, NULL, GRANT},
        {"all", no_argument, NULL, ALL},
        {"no-start", no_argument, NULL, NO_START},
        {"keep-data", no_argument, NULL, KEEP},
        {"boot", no_argument, NULL, BOOT},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "jh", options, NULL)) >= 0)
        switch (c) {
        case 'j':
            o->json = true;
            break;
        case 'h':
            return help();
        case VERSION_:
            puts("h-app " PROJECT_VERSION);
            return 0;
        case GRANT:
            if (words_add(&o->grants, optarg, strlen(optarg)) < 0)
                return -ENOMEM;
            break;
        case ALL:
            o->grant_all = true;
            break;
        case NO_START:
            o->no_start = true;
            break;
        case KEEP:
            o->keep_data = true;
            break;
        case BOOT:
            o->boot = true;
            break;
        default:
            return -EINVAL;
        }
    return 1;
}

static int run(const Options *o, char **words, int n)
{
    for (size_t i = 0; n > 0 && i < ELEMENTS(verbs); i++) {
        const Verb *v = &verbs[i];

        if (!streq(words[0], v->name))
            continue;
        if (n - 1 < v->min || (v->max >= 0 && n - 1 > v->max)) {
            fprintf(stderr, "h-app: usage: h-app %s\n", v->usage);
            return -EINVAL;
        }
        if (geteuid() != 0 && v->run != verb_check) {
            fprintf(stderr, "h-app: %s: only root can, since it is about users and units\n",
                    v->name);
            return -EACCES;
        }
        return v->run(o, words + 1, n - 1);
    }
    fprintf(stderr, "h-app: %s; see h-app --help\n",
            n > 0 ? "there is no such verb" : "a verb is missing");
    return -EINVAL;
}

int main(int argc, char *argv[])
{
    Options o = {0};
    int r = parse_options(argc, argv, &o);

    if (r > 0)
        r = run(&o, argv + optind, argc - optind);
    words_free(o.grants);
    return exit_code(r);
}
