/* SPDX-License-Identifier: Apache-2.0 */
#include "app-acts-internal.h"

#include <grp.h>
#include <pwd.h>

#include "app-systemd.h"

#define GROUP "hybridos"
#define USERDB "/run/userdb"
#define UNITS "/run/systemd/system"
#define ENDPOINTS "/run/hybridos/apps.d"

int acts_complain(int r, const char *format, ...)
{
    va_list args;

    fputs("h-app: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return r;
}

int acts_failed(const char *what, const App *app, int r)
{
    return acts_complain(r, "%s of %s: %s", what, app->manifest.name, strerror(-r));
}

/* --- the whole ------------------------------------------------------------------------------- */

static void complain_of_file(const char *file, const char *why)
{
    (void)acts_complain(0,
                        APP_DIRECTORY
                        "/%s cannot be used: %s. Its app is not started; restore the file, or "
                        "remove it and install the app anew",
                        file, why);
}

int acts_open(bool make, Acts *ret)
{
    const struct group *gr = getgrnam(GROUP);
    Acts a = {.files = {.userdb = USERDB, .units = UNITS, .endpoints = ENDPOINTS}};
    int r;

    if (!gr)
        return acts_complain(-ENOENT, "there is no group " GROUP ": run h-install-users");
    a.files.gid = gr->gr_gid;
    r = apps_open(APP_DIRECTORY, make, complain_of_file, &a.apps);
    if (r < 0)
        return acts_complain(r, "cannot use " APP_DIRECTORY ": %s",
                             r == -EPERM ? "others than root could write there" : strerror(-r));
    *ret = a;
    return 0;
}

void acts_done(Acts *a)
{
    apps_done(&a->apps);
    sd_bus_flush_close_unref(a->bus);
}

int acts_bus(Acts *a)
{
    return a->bus ? 0 : app_policy_open(&a->bus);
}

int acts_find(Acts *a, const char *name, App **ret)
{
    App *app = apps_find(&a->apps, name);

    if (!app || app->state != APP_INSTALLED)
        return acts_complain(-ENOENT, "there is no app %s%s", name,
                             !app                           ? ""
                             : app->state == APP_UNFINISHED ? " that is whole"
                                                            : " any more, only its files");
    *ret = app;
    return 0;
}

/* --- users ------------------------------------------------------------------------------------ */

/* Both ways round: somebody else's entry of that name, or of that uid, would run the app as
 * somebody else, or somebody else as the app. */
int acts_check_user(const App *app)
{
    char user[APP_USER_SIZE];
    const struct passwd *pw;

    app_user(app->manifest.name, user);
    pw = getpwnam(user);
    if (!pw)
        return acts_complain(
            -ENXIO,
            "the system does not know the user %s: does /etc/nsswitch.conf say \"systemd\" for "
            "passwd, and is libnss-systemd installed?",
            user);
    if (pw->pw_uid == app->uid) {
        pw = getpwuid(app->uid);
        if (pw && streq(pw->pw_name, user))
            return 0;
    }
    return acts_complain(
        -EEXIST,
        "another entry of the system's users has the name %s or the uid %u: %s is not started",
        user, app->uid, app->manifest.name);
}

int acts_publish_one(Acts *a, const App *app)
{
    int r = app_files_write_user(&a->files, app, true);

    if (r < 0)
        return acts_failed("cannot write the user", app, r);
    return acts_check_user(app);
}

int acts_publish(Acts *a)
{
    int result = a->apps.n_bad ? -EBADMSG : 0;

    for (size_t i = 0; i < a->apps.n; i++)
        if (a->apps.list[i].state == APP_INSTALLED) {
            int r = acts_publish_one(a, &a->apps.list[i]);

            result = r < 0 ? r : result;
        }
    return result;
}

/* --- units ----------------------------------------------------------------------------------- */

static int has_network(Acts *a, const App *app, bool *ret)
{
    char user[APP_USER_SIZE];
    int r;

    *ret = false;
    if (!app_manifest_request(&app->manifest, APP_NETWORK))
        return 0;
    app_user(app->manifest.name, user);
    r = acts_bus(a);
    return r < 0 ? r : app_policy_check(a->bus, user, APP_NETWORK, ret);
}

/* 1: changed. Who cannot be asked about has no network; who has no user has no program. */
int acts_write_unit(Acts *a, const App *app, int *result)
{
    bool network;
    int r = acts_check_user(app);

    if (r < 0) {
        *result = r;
        return app_files_remove_unit(&a->files, app) < 0 ? 0 : 1;
    }
    r = has_network(a, app, &network);
    if (r < 0)
        *result = r;
    r = app_files_write_unit(&a->files, app, network);
    if (r < 0)
        *result = acts_failed("cannot write the unit", app, r);
    return r;
}

static int start(const App *app, bool wait)
{
    char unit[APP_UNIT_SIZE];

    app_unit(app->manifest.name, unit);
    return app_systemd_do("start", unit, wait);
}

int acts_do(const App *app, const char *verb)
{
    char unit[APP_UNIT_SIZE];

    app_unit(app->manifest.name, unit);
    return app_systemd_do_if_loaded(verb, unit);
}

int acts_start(Acts *a, const App *app)
{
    char path[APP_START_UNIT_SIZE];

    if (app->manifest.start == APP_START_BOOT)
        return start(app, true);
    if (app->manifest.start == APP_START_MANUAL)
        return 0;
    acts_start_unit(app, path);
    return app_systemd_do("start", path, true);
}

static void start_at_boot(const App *app)
{
    char path[APP_START_UNIT_SIZE];

    acts_start_unit(app, path);
    if (app->manifest.start == APP_START_BOOT)
        (void)start(app, false);
    else if (app->manifest.start == APP_START_DEMAND)
        (void)app_systemd_do("start", path, false);
}

static void warn_of_halves(const Acts *a)
{
    for (size_t i = 0; i < a->apps.n; i++)
        if (a->apps.list[i].state == APP_UNFINISHED)
            (void)acts_complain(
                0,
                "the installation or removal of %s was interrupted; to clear up: h-app remove %s",
                a->apps.list[i].manifest.name, a->apps.list[i].manifest.name);
}

int acts_refresh(Acts *a, bool boot)
{
    int result = a->apps.n_bad ? -EBADMSG : 0, r = app_files_sweep_units(&a->files, &a->apps);
    bool changed[APPS_MAX] = {0}, any = r != 0, endpoints = false;

    warn_of_halves(a);
    for (size_t i = 0; i < a->apps.n; i++) {
        if (a->apps.list[i].state != APP_INSTALLED)
            continue;
        any |= changed[i] = acts_write_unit(a, &a->apps.list[i], &result) > 0;
        endpoints |= acts_write_endpoints(a, &a->apps.list[i], &result) > 0;
    }
    if (any) {
        r = app_systemd_reload();
        result = r < 0 ? r : result;
    }
    if (endpoints) {
        r = acts_reload_registrar();
        result = r < 0 ? r : result;
    }
    for (size_t i = 0; i < a->apps.n; i++) {
        if (changed[i])
            (void)acts_do(&a->apps.list[i], "try-restart");
        if (boot && a->apps.list[i].state == APP_INSTALLED)
            start_at_boot(&a->apps.list[i]);
    }
    return result;
}
