/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-manifest.h"

#include <pwd.h>
#include <sys/stat.h>

void manifest_done(endpoints_spec *specs, size_t n)
{
    for (size_t i = 0; specs && i < n; i++)
        endpoints_spec_done(&specs[i]);
    free(specs);
}

int manifest_system_user(const char *name, uint32_t *ret)
{
    const struct passwd *pw;
    unsigned long uid;
    char *end;

    if (name[0] >= '0' && name[0] <= '9') {
        errno = 0;
        uid = strtoul(name, &end, 10);
        if (errno || *end || uid >= UINT32_MAX)
            return -EINVAL;
        *ret = (uint32_t)uid;
        return 0;
    }
    errno = 0;
    pw = getpwnam(name);
    if (!pw)
        return errno && errno != ENOENT ? -errno : -ESRCH;
    *ret = pw->pw_uid;
    return 0;
}

static int complain(hybus_config_error *e, int r, const hybus_config_position *at, const char *what,
                    const char *value)
{
    if (r == -ENOMEM)
        return r;
    (void)hybus_config_error_set(e, at, "\"%s\" is not %s", value, what);
    return -EBADMSG;
}

static int read_entry(const hybus_config_entry *entry, manifest_user user, endpoints_spec *s,
                      bool *has_user, hybus_config_error *e)
{
    const char *value = entry->value;
    size_t size = strlen(value);
    int r;

    if (streq(entry->key, "Unit")) {
        r = endpoints_spec_set_unit(s, value, size);
        return r < 0 ? complain(e, r, &entry->value_at, "the name of a .service", value) : 0;
    }
    if (streq(entry->key, "User")) {
        r = user(value, &s->uid);
        *has_user = r >= 0;
        return r < 0 ? complain(e, r, &entry->value_at, "a user of this system", value) : 0;
    }
    if (streq(entry->key, "Title")) {
        r = endpoints_spec_set_title(s, value, size);
        return r < 0 ? complain(e, r, &entry->value_at, "a title", value) : 0;
    }
    if (streq(entry->key, "Attributes")) {
        r = endpoints_spec_set_attributes(s, value, size);
        return r < 0 ? complain(e, r, &entry->value_at, "link attributes, name=\"value\";…", value) : 0;
    }
    if (streq(entry->key, "Rule")) {
        r = endpoints_spec_add_rule(s, value, size);
        return r < 0 ? complain(e, r, &entry->value_at,
                                "METHODS SUBPATH PERMISSION, within the limits", value)
                     : 0;
    }
    return complain(e, -EINVAL, &entry->at, "a key here (Unit, User, Title, Attributes, Rule)", entry->key);
}

static int read_section(const hybus_config_section *section, manifest_user user, endpoints_spec *s,
                        hybus_config_error *e)
{
    bool has_user = false;
    int r;

    if (!streq(section->name, "endpoint"))
        return complain(e, -EINVAL, &section->at, "a section here (endpoint)", section->name);
    s->road = ENDPOINTS_START;
    r = endpoints_spec_set_namespace(s, section->argument, strlen(section->argument));
    if (r < 0)
        return complain(e, r, &section->at, "a namespace", section->argument);
    for (size_t i = 0; i < section->n_entries; i++) {
        r = read_entry(&section->entries[i], user, s, &has_user, e);
        if (r < 0)
            return r;
    }
    if (!s->unit || !has_user)
        return complain(e, -EINVAL, &section->at, "complete: it needs Unit and User",
                        section->argument);
    return 0;
}

int manifest_read(const hybus_config *c, manifest_user user, endpoints_spec **ret, size_t *ret_n,
                  hybus_config_error *e)
{
    const hybus_config_section *sections;
    size_t n = hybus_config_sections(c, &sections);
    endpoints_spec *specs;

    if (n > ENDPOINTS_MANIFESTS_MAX) {
        (void)hybus_config_error_set(e, &sections[ENDPOINTS_MANIFESTS_MAX].at,
                                     "more than %u endpoints", ENDPOINTS_MANIFESTS_MAX);
        return -EBADMSG;
    }
    specs = calloc(n > 0 ? n : 1, sizeof(*specs));
    if (!specs)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = read_section(&sections[i], user, &specs[i], e);
        for (size_t k = 0; r >= 0 && k < i; k++)
            if (streq(specs[k].ns, specs[i].ns))
                r = complain(e, -EEXIST, &sections[i].at, "free: another section has it",
                             specs[i].ns);
        if (r < 0) {
            manifest_done(specs, n);
            return r;
        }
    }
    *ret = specs;
    *ret_n = n;
    return 0;
}

/* A manifest keeps a namespace for a user: only root may say so. */
static int check_file(int fd, const char *path, hybus_config_error *e)
{
    const hybus_config_position at = {.file = path, .line = 1, .column = 1};
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH))) {
        (void)hybus_config_error_set(e, &at, "must belong to root and be writable by nobody else");
        return -EPERM;
    }
    return 0;
}

int manifest_load(const char *const *directories, manifest_user user, endpoints_spec **ret,
                  size_t *ret_n, hybus_config_error *e)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    int r;

    r = hybus_config_new(&c);
    if (r >= 0)
        r = hybus_config_read_directories(c, directories, ".app", check_file, e);
    return r < 0 ? r : manifest_read(c, user, ret, ret_n, e);
}
