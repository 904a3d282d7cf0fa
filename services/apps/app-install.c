/* SPDX-License-Identifier: Apache-2.0 */
#include "app-acts-internal.h"

#include <pwd.h>
#include <sys/stat.h>

#include "app-systemd.h"

/* --- permissions ------------------------------------------------------------------------------ */

static bool is_wanted(const AppConsent *consent, const char *permission)
{
    for (char *const *p = consent->permissions; !consent->all && p && *p; p++)
        if (streq(*p, permission))
            return true;
    return consent->all;
}

/* What is not requested is not the app's to have: a typing error must not look like a grant. */
static int check_consent(const AppManifest *m, const AppConsent *consent)
{
    for (char *const *p = consent->permissions; !consent->all && p && *p; p++)
        if (!app_manifest_request(m, *p))
            return acts_complain(-EINVAL,
                                 "%s does not request %s; to grant it all the same: h-policy grant",
                                 m->name, *p);
    return 0;
}

static int grant(Acts *a, const App *app, const AppConsent *consent)
{
    const AppManifest *m = &app->manifest;
    char user[APP_USER_SIZE];
    int r = 0;

    app_user(m->name, user);
    for (size_t i = 0; i < m->n_requests && r >= 0; i++) {
        const char *permission = m->requests[i].permission;
        bool granted = false;

        if (!is_wanted(consent, permission))
            continue;
        r = app_policy_check(a->bus, user, permission, &granted);
        if (r >= 0 && !granted)
            r = app_policy_grant(a->bus, user, permission);
    }
    return r;
}

int acts_grant(Acts *a, const App *app, const AppConsent *consent)
{
    int r = check_consent(&app->manifest, consent);

    if (r >= 0)
        r = acts_bus(a);
    if (r >= 0)
        r = grant(a, app, consent);
    return r < 0 ? r : acts_refresh(a, false);
}

int acts_revoke(Acts *a, const App *app, char *const *permissions)
{
    char user[APP_USER_SIZE];
    int r = acts_bus(a);

    app_user(app->manifest.name, user);
    for (; r >= 0 && *permissions; permissions++) {
        r = app_policy_revoke(a->bus, user, app->uid, *permissions);
        if (r == 0)
            r = acts_complain(-ENOENT, "no grant for %s alone gives it %s", user, *permissions);
    }
    return r < 0 ? r : acts_refresh(a, false);
}

/* --- removing --------------------------------------------------------------------------------- */

/* Systemd cleans up only after what it knows as a program. */
static int clean(Acts *a, const App *app)
{
    char unit[APP_UNIT_SIZE];
    int r = app_files_write_unit(&a->files, app, false);

    if (r < 0)
        return acts_failed("cannot write the unit", app, r);
    if (r > 0)
        r = app_systemd_reload();
    app_unit(app->manifest.name, unit);
    if (r >= 0)
        r = acts_do(app, "stop");
    if (r >= 0)
        r = acts_do(app, "reset-failed");
    return r < 0 ? r : app_systemd_clean(unit);
}

static int stop(Acts *a, const App *app, bool keep_data)
{
    int r = acts_withdraw_endpoints(a, app);

    if (r >= 0)
        r = acts_do(app, "stop");
    if (r >= 0 && !keep_data)
        r = clean(a, app);
    if (r < 0)
        return r;
    r = app_files_remove_unit(&a->files, app);
    if (r < 0)
        return acts_failed("cannot remove the unit", app, r);
    r = app_systemd_reload();
    /* Whoever started it in between: from here on nobody can. */
    if (r >= 0)
        r = acts_do(app, "stop");
    return r;
}

/* No rule of the bus may name a user who is not there: so it leaves the group first, and goes when
 * the bus has proved that it obeys rules without it. */
static int withdraw_user(Acts *a, const App *app)
{
    char user[APP_USER_SIZE];
    int r;

    app_user(app->manifest.name, user);
    r = app_policy_revoke(a->bus, user, app->uid, NULL);
    if (r < 0)
        return r;
    r = app_files_write_user(&a->files, app, false);
    if (r < 0)
        return acts_failed("cannot write the user", app, r);
    r = app_policy_reload(a->bus);
    if (r < 0)
        return r;
    r = app_files_remove_user(&a->files, app);
    if (r < 0)
        return acts_failed("cannot remove the user", app, r);
    return app_policy_reload(a->bus);
}

static int unmake(Acts *a, App *app, bool keep_data)
{
    char name[APP_NAME_MAX + 1];
    int r = apps_set_state(&a->apps, app, APP_UNFINISHED);

    if (r < 0)
        return acts_failed("cannot begin the removal", app, r);
    snprintf(name, sizeof name, "%s", app->manifest.name);
    r = stop(a, app, keep_data);
    if (r >= 0)
        r = withdraw_user(a, app);
    if (r < 0)
        return acts_complain(r, "the removal of %s is not finished; to go on: h-app remove %s",
                             name, name);
    r = keep_data ? apps_set_state(&a->apps, app, APP_KEPT) : apps_remove(&a->apps, app);
    return r < 0 ? acts_complain(r, "cannot end the removal of %s: %s", name, strerror(-r)) : 0;
}

int acts_remove(Acts *a, App *app, bool keep_data)
{
    uint32_t uid = app->uid;
    char name[APP_NAME_MAX + 1];
    int r = acts_bus(a);

    snprintf(name, sizeof name, "%s", app->manifest.name);
    if (r >= 0)
        r = app_policy_note(a->bus, "remove", name, uid);
    if (r >= 0)
        r = unmake(a, app, keep_data);
    return r < 0 ? r : app_policy_note(a->bus, "removed", name, uid);
}

/* --- installing ------------------------------------------------------------------------------- */

static bool uid_is_taken(uint32_t uid)
{
    return getpwuid(uid) != NULL;
}

/* Whoever could change it, or a directory on the way to it, could become the app. */
static int check_owners(const char *path, const char *program)
{
    char part[PATH_MAX];

    for (const char *end = path; *end;) {
        struct stat st;

        end += 1 + strcspn(end + 1, "/");
        snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
        if (lstat(part, &st) < 0)
            return acts_complain(-errno, "exec: %s: %s", part, strerror(errno));
        if (st.st_uid != 0 || (!S_ISLNK(st.st_mode) && (st.st_mode & (S_IWGRP | S_IWOTH))))
            return acts_complain(-EPERM, "exec: %s could be changed by others than root through %s",
                                 program, part);
    }
    return 0;
}

static int check_program(const char *program)
{
    char real[PATH_MAX];
    struct stat st;
    int r;

    if (strlen(program) >= PATH_MAX || !realpath(program, real) || stat(real, &st) < 0)
        return acts_complain(-errno, "exec: %s: %s", program, strerror(errno));
    if (!S_ISREG(st.st_mode) || !(st.st_mode & S_IXOTH))
        return acts_complain(-EACCES, "exec: %s is no program that everybody may run", program);
    r = check_owners(program, program);
    return r < 0 ? r : check_owners(real, program);
}

static int explain_add(const char *name, int r)
{
    switch (-r) {
    case EEXIST:
        return acts_complain(r, "there is an app %s already: h-app update, or h-app remove", name);
    case ENOSPC:
        return acts_complain(
            r,
            "all uids of apps (%u to %u) have been given out. None is given out twice, since "
            "old records, files and rules may name it; a factory reset begins anew",
            APP_UID_FIRST, APP_UID_LAST);
    case EBADMSG:
        return acts_complain(r, APP_DIRECTORY
                             "/next-uid is damaged or missing: it cannot be known which uids have "
                             "been given out. Restore it from a backup");
    case EOVERFLOW:
        return acts_complain(r, "there are %u apps already", APPS_MAX);
    default:
        return acts_complain(r, "cannot keep the app %s: %s", name, strerror(-r));
    }
}

/* An app whose files were kept gets its uid back, since they are that uid's. */
static int keep_record(Acts *a, AppManifest *manifest, json_t *source, App **ret)
{
    App *app = apps_find(&a->apps, manifest->name);
    char user[APP_USER_SIZE];
    int r;

    if (app && app->state == APP_UNFINISHED)
        return acts_complain(
            -EBUSY,
            "the installation or removal of %s was interrupted; to clear up first: h-app remove %s",
            manifest->name, manifest->name);
    if (app && app->state == APP_KEPT) {
        r = apps_set_manifest(&a->apps, app, manifest, source);
        *ret = app;
    } else {
        app_user(manifest->name, user);
        if (!app && getpwnam(user))
            return acts_complain(-EEXIST, "there is a user %s already, who is not of an app", user);
        r = apps_add(&a->apps, manifest, source, uid_is_taken, ret);
    }
    return r < 0 ? explain_add(app ? app->manifest.name : manifest->name, r) : 0;
}

/* The user before the rules that name it, the rules before the program that uses them. */
static int put_in_force(Acts *a, App *app, const AppConsent *consent)
{
    int result = 0, r = acts_publish_one(a, app);

    if (r >= 0)
        r = app_policy_reload(a->bus);
    if (r >= 0)
        r = grant(a, app, consent);
    if (r >= 0)
        r = acts_write_unit(a, app, &result) < 0 || result < 0 ? result : app_systemd_reload();
    if (r >= 0)
        r = acts_write_endpoints(a, app, &result);
    if (r >= 0 && result < 0)
        r = result;
    if (r > 0)
        r = acts_reload_registrar();
    if (r < 0)
        return r;
    r = apps_set_state(&a->apps, app, APP_INSTALLED);
    return r < 0 ? acts_failed("cannot finish the installation", app, r) : 0;
}

int acts_install(Acts *a, AppManifest *manifest, json_t *source, const AppConsent *consent,
                 App **ret)
{
    char user[APP_USER_SIZE];
    bool kept;
    App *app;
    int r = check_consent(manifest, consent);

    if (r >= 0)
        r = check_program(manifest->exec[0]);
    if (r >= 0)
        r = acts_bus(a);
    if (r < 0)
        return r;
    app = apps_find(&a->apps, manifest->name);
    kept = app && app->state == APP_KEPT;
    r = keep_record(a, manifest, source, &app);
    if (r < 0)
        return r;
    r = app_policy_note(a->bus, "install", app->manifest.name, app->uid);
    if (r < 0) { /* nobody has heard of it yet */
        (void)(kept ? apps_set_state(&a->apps, app, APP_KEPT) : apps_remove(&a->apps, app));
        return r;
    }
    app_user(app->manifest.name, user);
    /* The name may have been another app's, whose record was lost. */
    r = app_policy_revoke(a->bus, user, app->uid, NULL);
    if (r >= 0)
        r = put_in_force(a, app, consent);
    if (r < 0) {
        (void)unmake(a, app, kept);
        return acts_complain(r, "not installed");
    }
    *ret = app;
    return 0;
}

static int revoke_unrequested(Acts *a, const App *app, const AppManifest *next)
{
    const AppManifest *m = &app->manifest;
    char user[APP_USER_SIZE];
    int r = 0;

    app_user(m->name, user);
    for (size_t i = 0; i < m->n_requests && r >= 0; i++)
        if (!app_manifest_request(next, m->requests[i].permission))
            r = app_policy_revoke(a->bus, user, app->uid, m->requests[i].permission);
    return r;
}

int acts_update(Acts *a, App *app, AppManifest *manifest, json_t *source, const AppConsent *consent)
{
    int r = check_consent(manifest, consent);

    if (r >= 0)
        r = check_program(manifest->exec[0]);
    if (r >= 0)
        r = acts_bus(a);
    if (r >= 0)
        r = app_policy_note(a->bus, "update", app->manifest.name, app->uid);
    if (r >= 0)
        r = revoke_unrequested(a, app, manifest);
    if (r >= 0)
        r = acts_withdraw_endpoints(a, app);
    if (r >= 0)
        r = acts_do(app, "stop");
    if (r < 0)
        return r;
    r = apps_set_manifest(&a->apps, app, manifest, source);
    if (r < 0)
        return acts_failed("cannot keep the manifest", app, r);
    return put_in_force(a, app, consent);
}
