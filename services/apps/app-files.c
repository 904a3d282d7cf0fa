/* SPDX-License-Identifier: Apache-2.0 */
#include "app-files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "../securityd/state-file.h"

#define DROP_IN "50-app.conf"
#define NOBODY 65534u
#define TEXT_MAX (256u * 1024u)

/* --- texts ----------------------------------------------------------------------------------- */

char *app_files_user_text(const AppFiles *f, const App *app, bool member)
{
    char user[APP_USER_SIZE], *text;

    app_user(app->manifest.name, user);
    return asprintf(&text,
                    "{\"userName\":\"%s\",\"uid\":%u,\"gid\":%u,\"realName\":\"HybridOS app %s\","
                    "\"homeDirectory\":\"/\",\"shell\":\"/usr/sbin/nologin\",\"locked\":true,"
                    "\"disposition\":\"system\"}\n",
                    user, app->uid, member ? f->gid : NOBODY, app->manifest.name) < 0
               ? NULL
               : text;
}

/* systemd.service(5): specifiers begin with %, and the prefix ":" keeps $ what it is. */
static void put_word(FILE *file, const char *s)
{
    fputs(" \"", file);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fputc('\\', file);
        if (*s == '%')
            fputc('%', file);
        fputc(*s, file);
    }
    fputc('"', file);
}

static void put_title(FILE *file, const char *s)
{
    for (; *s; s++)
        fputs(*s == '%' ? "%%" : (const char[]){*s, '\0'}, file);
}

static void put_network(FILE *file, const char *name)
{
    /* What the policy says when it starts counts, be this file older than that. */
    fprintf(file,
            "PrivateNetwork=no\n"
            "RestrictAddressFamilies=AF_INET AF_INET6\n"
            "IPAddressDeny=\n"
            "ExecStartPre=+/usr/sbin/h-app allowed %s " APP_NETWORK "\n",
            name);
}

static void put_unit(FILE *file, const AppManifest *m, bool network)
{
    fprintf(file,
            "# Made by h-app; changes are overwritten.\n[Unit]\nDescription=HybridOS app %s%s",
            m->name, *m->title ? ": " : "");
    put_title(file, m->title);
    fprintf(file, "\n[Service]\nExecStart=:%s", m->exec[0]);
    for (char **word = m->exec + 1; *word; word++)
        put_word(file, *word);
    /* The uid is this app's alone, so that its own limit of processes holds without cgroups too. */
    fprintf(file, "\nMemoryMax=%llu\nTasksMax=%u\nLimitNPROC=%u\nCPUQuota=%u%%\n",
            (unsigned long long)m->memory, m->tasks, m->tasks, m->cpu);
    if (m->endpoints)
        fprintf(file, "Environment=HYBRIDOS_ENDPOINT=%s\n", m->endpoints[0]);
    if (network)
        put_network(file, m->name);
}

static char *finish_text(FILE *file, char **text)
{
    if (fclose(file) == 0)
        return *text;
    free(*text);
    return NULL;
}

char *app_files_unit_text(const App *app, bool network)
{
    size_t size;
    char *text;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return NULL;
    put_unit(file, &app->manifest, network);
    return finish_text(file, &text);
}

char *app_files_endpoints_text(const App *app, const bool marked[APP_ENDPOINTS_MAX])
{
    const AppManifest *m = &app->manifest;
    char unit[APP_UNIT_SIZE], user[APP_USER_SIZE], *text;
    size_t size;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return NULL;
    app_unit(m->name, unit);
    app_user(m->name, user);
    fputs("# Made by h-app; changes are overwritten.\n", file);
    for (size_t i = 0; m->endpoints && m->endpoints[i]; i++) {
        if (!marked[i])
            continue;
        fprintf(file, "[endpoint %s]\nUnit = %s\nUser = %s\n", m->endpoints[i], unit, user);
        if (*m->title)
            fprintf(file, "Title = %s\n", m->title);
    }
    return finish_text(file, &text);
}

/* --- files ----------------------------------------------------------------------------------- */

static int make_directory(const char *path)
{
    return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static bool stands_there(const char *directory, const char *name, const char *text)
{
    _cleanup_(freep) char *old = NULL;
    size_t size;

    return read_file_limited(directory, name, TEXT_MAX, &old, &size) >= 0 && size == strlen(text) &&
           memcmp(old, text, size) == 0;
}

/* Takes over `text`. */
static int write_text(const char *directory, const char *name, char *text)
{
    _cleanup_(freep) char *mine = text;
    int r;

    if (!mine)
        return -ENOMEM;
    r = make_directory(directory);
    if (r < 0 || stands_there(directory, name, mine))
        return r;
    r = write_file_atomically(directory, name, mine, strlen(mine), 0644);
    return r < 0 ? r : 1;
}

static int remove_name(const char *directory, const char *name)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path)
        return -ENAMETOOLONG;
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int link_uid(const AppFiles *f, const App *app, const char *target)
{
    char path[PATH_MAX], now[64];
    ssize_t n;

    if ((size_t)snprintf(path, sizeof path, "%s/%u.user", f->userdb, app->uid) >= sizeof path)
        return -ENAMETOOLONG;
    n = readlink(path, now, sizeof now);
    if (n == (ssize_t)strlen(target) && memcmp(now, target, (size_t)n) == 0)
        return 0;
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    return symlink(target, path) < 0 ? -errno : 0;
}

int app_files_write_user(const AppFiles *f, const App *app, bool member)
{
    char user[APP_USER_SIZE], name[APP_USER_SIZE + 8];
    int r;

    app_user(app->manifest.name, user);
    snprintf(name, sizeof name, "%s.user", user);
    r = write_text(f->userdb, name, app_files_user_text(f, app, member));
    return r < 0 ? r : link_uid(f, app, name);
}

int app_files_remove_user(const AppFiles *f, const App *app)
{
    char user[APP_USER_SIZE], name[APP_USER_SIZE + 8], by_uid[24];
    int r;

    app_user(app->manifest.name, user);
    snprintf(name, sizeof name, "%s.user", user);
    snprintf(by_uid, sizeof by_uid, "%u.user", app->uid);
    r = remove_name(f->userdb, by_uid);
    return r < 0 ? r : remove_name(f->userdb, name);
}

static int drop_in_directory(const AppFiles *f, const char *name, char *ret, size_t size)
{
    char unit[APP_UNIT_SIZE];

    app_unit(name, unit);
    return (size_t)snprintf(ret, size, "%s/%s.d", f->units, unit) < size ? 0 : -ENAMETOOLONG;
}

int app_files_write_unit(const AppFiles *f, const App *app, bool network)
{
    char directory[PATH_MAX];
    int r = drop_in_directory(f, app->manifest.name, directory, sizeof directory);

    if (r >= 0)
        r = make_directory(f->units);
    return r < 0 ? r : write_text(directory, DROP_IN, app_files_unit_text(app, network));
}

/* An administrator's own drop-in there stays; alone it starts nothing. */
static int remove_drop_in(const char *directory)
{
    int r = remove_name(directory, DROP_IN);

    if (r < 0)
        return r == -ENOTDIR ? 0 : r;
    return rmdir(directory) < 0 && errno != ENOENT && errno != ENOTEMPTY ? -errno : 0;
}

int app_files_remove_unit(const AppFiles *f, const App *app)
{
    char directory[PATH_MAX];
    int r = drop_in_directory(f, app->manifest.name, directory, sizeof directory);

    return r < 0 ? r : remove_drop_in(directory);
}

static void endpoints_name(const App *app, char *ret, size_t size)
{
    snprintf(ret, size, "h-app-%s.app", app->manifest.name);
}

int app_files_write_endpoints(const AppFiles *f, const App *app,
                              const bool marked[APP_ENDPOINTS_MAX])
{
    char name[APP_UNIT_SIZE];
    bool any = false;

    for (size_t i = 0; i < APP_ENDPOINTS_MAX; i++)
        any |= marked[i];
    if (!any)
        return app_files_remove_endpoints(f, app);
    endpoints_name(app, name, sizeof name);
    return write_text(f->endpoints, name, app_files_endpoints_text(app, marked));
}

int app_files_remove_endpoints(const AppFiles *f, const App *app)
{
    char name[APP_UNIT_SIZE], path[PATH_MAX];

    endpoints_name(app, name, sizeof name);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", f->endpoints, name) >= sizeof path)
        return -ENAMETOOLONG;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : -errno;
    return 1;
}

/* --- what nobody owns any more --------------------------------------------------------------- */

/* "h-app@NAME.service.d" of an app that is installed. */
static bool belongs(const char *name, Apps *apps)
{
    const App *app;
    char word[APP_NAME_MAX + 1];
    size_t n = strcspn(name, ".");

    if (n >= sizeof word || !streq(name + n, ".service.d"))
        return false;
    memcpy(word, name, n);
    word[n] = '\0';
    app = apps_find(apps, word);
    return app && app->state == APP_INSTALLED;
}

int app_files_sweep_units(const AppFiles *f, Apps *apps)
{
    DIR *dir = opendir(f->units);
    const struct dirent *entry;
    int found = 0, r = 0;

    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    while (r >= 0 && (entry = readdir(dir))) {
        const char *name = startswith(entry->d_name, "h-app@");
        char path[PATH_MAX];

        if (!name || !strstr(name, ".service.d") || belongs(name, apps))
            continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", f->units, entry->d_name) < sizeof path)
            r = remove_drop_in(path);
        found = 1;
    }
    closedir(dir);
    return r < 0 ? r : found;
}
