/* SPDX-License-Identifier: Apache-2.0 */
#include "app-registry.h"

#include <dirent.h>
#include <fcntl.h>
#include <hybus/json.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "../securityd/state-file.h"

#define SUFFIX ".app"
#define KIND "app"
#define NEXT_FILE "next-uid"
#define NEXT_KIND "next-app-uid"
#define FILE_MAX (2u * APP_MANIFEST_MAX)
#define FILE_NAME_SIZE (APP_NAME_MAX + sizeof SUFFIX)

static const char *const states[] = {
    [APP_INSTALLED] = "installed", [APP_UNFINISHED] = "unfinished", [APP_KEPT] = "kept"};

const char *app_state_name(AppState state)
{
    return states[state];
}

void app_user(const char *name, char ret[APP_USER_SIZE])
{
    snprintf(ret, APP_USER_SIZE, "h-app-%s", name);
}

void app_unit(const char *name, char ret[APP_UNIT_SIZE])
{
    snprintf(ret, APP_UNIT_SIZE, "h-app@%s.service", name);
}

static void app_done(App *app)
{
    app_manifest_done(&app->manifest);
    json_decref(app->source);
}

void apps_done(Apps *apps)
{
    for (size_t i = 0; i < apps->n; i++)
        app_done(&apps->list[i]);
    free(apps->list);
    free(apps->directory);
    safe_close(apps->lock);
    *apps = (Apps){.lock = -1};
}

App *apps_find(Apps *apps, const char *name)
{
    for (size_t i = 0; i < apps->n; i++)
        if (streq(apps->list[i].manifest.name, name))
            return &apps->list[i];
    return NULL;
}

/* --- reading --------------------------------------------------------------------------------- */

static int read_record(const json_t *value, App *app, hybus_config_error *e)
{
    const char *state = json_string_value(json_object_get(value, "state"));
    json_int_t uid = json_integer_value(json_object_get(value, "uid"));
    json_t *manifest = json_object_get(value, "manifest");
    int r;

    if (uid < APP_UID_FIRST || uid > APP_UID_LAST) {
        (void)hybus_config_error_set(e, NULL, "its uid is none of an app");
        return -EBADMSG;
    }
    app->uid = (uint32_t)uid;
    app->state = APP_KEPT + 1;
    for (size_t i = 0; state && i < ELEMENTS(states); i++)
        if (streq(states[i], state))
            app->state = (AppState)i;
    if (app->state > APP_KEPT) {
        (void)hybus_config_error_set(e, NULL, "its state is unknown");
        return -EBADMSG;
    }
    r = app_manifest_read(manifest, &app->manifest, e);
    if (r >= 0)
        app->source = json_incref(manifest);
    return r;
}

static int read_app(const char *directory, const char *file, App *app, hybus_config_error *e)
{
    _cleanup_(hybus_json_error_done) hybus_json_error bad = {0};
    _cleanup_(hybus_json_decrefp) json_t *value = NULL;
    _cleanup_(freep) char *text = NULL;
    size_t size;
    int r = read_checked_file(directory, file, KIND, FILE_MAX, &text, &size);

    if (r < 0) {
        (void)hybus_config_error_set(e, NULL, "%s",
                                     r == -EBADMSG ? "its checksum does not fit: it is damaged"
                                     : r == -EPERM ? "others than root own it or may write it"
                                                   : strerror(-r));
        return r;
    }
    r = hybus_json_load(text, size, &value, &bad);
    if (r < 0) {
        (void)hybus_config_error_set(e, NULL, "%s", bad.message ? bad.message : strerror(-r));
        return r;
    }
    return read_record(value, app, e);
}

/* Two that share a name or a uid: neither says who is meant. */
static bool fits(const Apps *apps, const char *file, const App *app)
{
    const char *rest = startswith(file, app->manifest.name);

    if (!rest || !streq(rest, SUFFIX))
        return false;
    for (size_t i = 0; i < apps->n; i++)
        if (apps->list[i].uid == app->uid)
            return false;
    return true;
}

static int take(Apps *apps, App *app)
{
    App *larger = reallocarray(apps->list, apps->n + 1, sizeof *larger);

    if (!larger)
        return -ENOMEM;
    apps->list = larger;
    larger[apps->n++] = *app;
    return 0;
}

static int read_one(Apps *apps, const char *file, AppsComplain complain)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    App app = {0};
    int r = read_app(apps->directory, file, &app, &e);

    if (r >= 0 && !fits(apps, file, &app)) {
        (void)hybus_config_error_set(&e, NULL, "it holds another app, or the uid of another one");
        r = -EBADMSG;
    }
    if (r >= 0)
        r = take(apps, &app);
    if (r >= 0)
        return 0;
    app_done(&app);
    if (r == -ENOMEM)
        return r;
    apps->n_bad++;
    complain(file, e.message ? e.message : strerror(-r));
    return 0;
}

static int is_record(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);

    return *entry->d_name != '.' && n > strlen(SUFFIX) &&
           streq(entry->d_name + n - strlen(SUFFIX), SUFFIX);
}

static int read_all(Apps *apps, AppsComplain complain)
{
    struct dirent **entries;
    int n = scandir(apps->directory, &entries, is_record, alphasort), r = 0;

    if (n < 0)
        return -errno;
    for (int i = 0; i < n; i++) {
        if (r >= 0 && apps->n >= APPS_MAX) {
            apps->n_bad++;
            complain(entries[i]->d_name, "there are more apps than a device may have");
        } else if (r >= 0)
            r = read_one(apps, entries[i]->d_name, complain);
        free(entries[i]);
    }
    free(entries);
    return r;
}

static int lock(const char *directory, bool make)
{
    _cleanup_(closep) int fd = -1;
    struct stat st;

    if (make && mkdir(directory, 0755) < 0 && errno != EEXIST)
        return -errno;
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return -EPERM;
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return -errno;
    return TAKE_FD(fd);
}

int apps_open(const char *directory, bool make, AppsComplain complain, Apps *ret)
{
    Apps apps = {.lock = lock(directory, make)};
    int r = apps.lock == -ENOENT && !make ? 0 : apps.lock;

    if (r < 0)
        return r;
    apps.directory = strdup(directory);
    r = !apps.directory ? -ENOMEM : apps.lock >= 0 ? read_all(&apps, complain) : 0;
    if (r < 0) {
        apps_done(&apps);
        return r;
    }
    *ret = apps;
    return 0;
}

/* --- writing --------------------------------------------------------------------------------- */

static int write_app(const Apps *apps, const App *app)
{
    _cleanup_(hybus_json_decrefp) json_t *value =
        json_pack("{sI ss sO}", "uid", (json_int_t)app->uid, "state", states[app->state],
                  "manifest", app->source);
    _cleanup_(freep) char *text = value ? json_dumps(value, JSON_INDENT(1)) : NULL;
    char file[FILE_NAME_SIZE];

    if (!text)
        return -ENOMEM;
    snprintf(file, sizeof file, "%s" SUFFIX, app->manifest.name);
    return write_checked_file(apps->directory, file, KIND, text, strlen(text));
}

static int read_next(const Apps *apps, uint32_t *ret)
{
    _cleanup_(freep) char *text = NULL;
    unsigned long value;
    size_t size;
    char *end;
    int r = read_checked_file(apps->directory, NEXT_FILE, NEXT_KIND, 16, &text, &size);

    if (r == -ENOENT && apps->n + apps->n_bad == 0) {
        *ret = APP_UID_FIRST;
        return 0;
    }
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    value = strtoul(text, &end, 10);
    if (end == text || *end || value < APP_UID_FIRST || value > APP_UID_LAST + 1)
        return -EBADMSG;
    *ret = (uint32_t)value;
    return 0;
}

/* What comes next is on disk before anybody has it. */
static int next_uid(const Apps *apps, bool (*taken)(uint32_t uid), uint32_t *ret)
{
    char text[16];
    uint32_t uid;
    int r = read_next(apps, &uid);

    if (r < 0)
        return r;
    for (size_t i = 0; i < apps->n; i++)
        uid = MAX_OF(uid, apps->list[i].uid + 1);
    while (uid <= APP_UID_LAST && taken(uid))
        uid++;
    if (uid > APP_UID_LAST)
        return -ENOSPC;
    snprintf(text, sizeof text, "%u", uid + 1);
    r = write_checked_file(apps->directory, NEXT_FILE, NEXT_KIND, text, strlen(text));
    if (r >= 0)
        *ret = uid;
    return r;
}

static bool has_file(const Apps *apps, const char *name)
{
    char file[FILE_NAME_SIZE];

    snprintf(file, sizeof file, "%s" SUFFIX, name);
    return faccessat(apps->lock, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int apps_add(Apps *apps, AppManifest *manifest, json_t *source, bool (*taken)(uint32_t uid),
             App **ret)
{
    App app = {.manifest = *manifest, .source = source, .state = APP_UNFINISHED};
    int r;

    if (has_file(apps, manifest->name))
        return -EEXIST;
    if (apps->n + apps->n_bad >= APPS_MAX)
        return -EOVERFLOW;
    r = next_uid(apps, taken, &app.uid);
    if (r >= 0)
        r = write_app(apps, &app);
    if (r >= 0)
        r = take(apps, &app);
    if (r < 0)
        return r;
    json_incref(source);
    *manifest = (AppManifest){0};
    *ret = &apps->list[apps->n - 1];
    return 0;
}

int apps_set_state(Apps *apps, App *app, AppState state)
{
    App changed = *app;
    int r;

    changed.state = state;
    r = write_app(apps, &changed);
    if (r >= 0)
        app->state = state;
    return r;
}

int apps_set_manifest(Apps *apps, App *app, AppManifest *manifest, json_t *source)
{
    App changed = {
        .manifest = *manifest, .source = source, .uid = app->uid, .state = APP_UNFINISHED};
    int r = write_app(apps, &changed);

    if (r < 0)
        return r;
    app_done(app);
    *app = changed;
    json_incref(source);
    *manifest = (AppManifest){0};
    return 0;
}

int apps_remove(Apps *apps, App *app)
{
    char file[FILE_NAME_SIZE];

    snprintf(file, sizeof file, "%s" SUFFIX, app->manifest.name);
    if (unlinkat(apps->lock, file, 0) < 0 && errno != ENOENT)
        return -errno;
    if (fsync(apps->lock) < 0)
        return -errno;
    app_done(app);
    *app = apps->list[--apps->n];
    return 0;
}
