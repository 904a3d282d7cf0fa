/* SPDX-License-Identifier: Apache-2.0 */
#include "app-manifest.h"

#include <hybus/json.h>
#include <hybus/utf8.h>

#include "../securityd/permission.h"
#include "../securityd/words.h"

static int _printf_(2, 3) wrong(hybus_config_error *e, const char *format, ...)
{
    _cleanup_(freep) char *text = NULL;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) {
        text = NULL;
        return -ENOMEM;
    }
    (void)hybus_config_error_set(e, NULL, "%s", text);
    return -EBADMSG;
}

bool app_name_is_valid(const char *name)
{
    return *name >= 'a' && *name <= 'z' && word_is_made_of(name, APP_NAME_MAX, "-") &&
           name[strlen(name) - 1] != '-';
}

/* --- words ----------------------------------------------------------------------------------- */

/* Shown to people, and written into files that are read by lines. */
static bool is_plain_text(const char *s, size_t max)
{
    size_t n = strlen(s);

    if (n > max || !hybus_utf8_is_valid(s, n))
        return false;
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f ||
            ((unsigned char)*s == 0xc2 && (unsigned char)s[1] < 0xa0))
            return false;
    return true;
}

/* It ends a line of a configuration file, where a backslash would take the next one along. */
static bool is_title(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || (unsigned char)*s >= 0x7f || *s == '\\')
            return false;
    return true;
}

/* "/a/b": no empty segment, none that is "." or "..", nothing at the end. */
static bool is_path(const char *s, const char *extra, size_t max)
{
    size_t n = strlen(s);

    if (n < 2 || n > max || *s != '/')
        return false;
    while (*s) {
        size_t k = strcspn(++s, "/");

        if (k == 0 || (k == 1 && *s == '.') || (k == 2 && s[0] == '.' && s[1] == '.'))
            return false;
        for (; k > 0; k--, s++)
            if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
                  (*s >= '0' && *s <= '9') || strchr(extra, *s)))
                return false;
    }
    return true;
}

static bool is_program(const char *s)
{
    return is_path(s, "._+-", APP_WORD_MAX);
}

static bool is_endpoint(const char *s)
{
    return is_path(s, "._~-", APP_ENDPOINT_MAX);
}

static bool is_argument(const char *s)
{
    return is_plain_text(s, APP_WORD_MAX);
}

/* --- values ---------------------------------------------------------------------------------- */

static int only_keys(const json_t *object, const char *const *keys, const char *where,
                     hybus_config_error *e)
{
    const char *key;
    json_t *value;

    if (!json_is_object(object))
        return wrong(e, "%s: an object is needed here", where);
    json_object_foreach((json_t *)object, key, value)
    {
        const char *const *k = keys;

        while (*k && !streq(*k, key))
            k++;
        if (!*k)
            return wrong(e, "%s: there is no key \"%.40s\"", where,
                         is_plain_text(key, 40) ? key : "?");
    }
    return 0;
}

/* A string without U+0000, or NULL. */
static const char *string_of(const json_t *value)
{
    const char *s = json_string_value(value);

    return s && strlen(s) == json_string_length(value) ? s : NULL;
}

static int read_list(const json_t *value, const char *key, size_t min, size_t max,
                     bool (*first)(const char *), bool (*other)(const char *), const char *what,
                     char ***ret, hybus_config_error *e)
{
    size_t n = json_array_size(value);
    int r = 0;

    if (!json_is_array(value) || n < min || n > max)
        return wrong(e, "%s: a list of %zu to %zu strings is needed", key, min, max);
    for (size_t i = 0; i < n && r >= 0; i++) {
        const char *s = string_of(json_array_get(value, i));

        if (!s || !(i == 0 ? first : other)(s))
            return wrong(e, "%s[%zu]: %s", key, i, what);
        r = words_add(ret, s, strlen(s));
    }
    return r < 0 ? r : 0;
}

static int read_number(const json_t *object, const char *key, uint64_t min, uint64_t max,
                       uint64_t *value, hybus_config_error *e)
{
    const json_t *v = json_object_get(object, key);

    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < (json_int_t)min ||
        json_integer_value(v) > (json_int_t)max)
        return wrong(e, "limits.%s: a whole number from %llu to %llu is needed", key,
                     (unsigned long long)min, (unsigned long long)max);
    *value = (uint64_t)json_integer_value(v);
    return 0;
}

static int read_limits(const json_t *value, AppManifest *m, hybus_config_error *e)
{
    static const char *const keys[] = {"memory", "tasks", "cpu", NULL};
    uint64_t tasks = APP_TASKS_DEFAULT, cpu = APP_CPU_DEFAULT;
    int r = 0;

    m->memory = APP_MEMORY_DEFAULT;
    if (value)
        r = only_keys(value, keys, "limits", e);
    if (r >= 0)
        r = read_number(value, "memory", APP_MEMORY_MIN, APP_MEMORY_MAX, &m->memory, e);
    if (r >= 0)
        r = read_number(value, "tasks", 1, APP_TASKS_MAX, &tasks, e);
    if (r >= 0)
        r = read_number(value, "cpu", 1, APP_CPU_MAX, &cpu, e);
    m->tasks = (unsigned)tasks;
    m->cpu = (unsigned)cpu;
    return r;
}

static int read_start(const json_t *value, AppManifest *m, hybus_config_error *e)
{
    static const char *const names[] = {
        [APP_START_BOOT] = "boot", [APP_START_DEMAND] = "demand", [APP_START_MANUAL] = "manual"};
    const char *s = value ? string_of(value) : "boot";

    for (size_t i = 0; s && i < ELEMENTS(names); i++)
        if (streq(names[i], s)) {
            m->start = (AppStart)i;
            if (m->start == APP_START_DEMAND && !m->endpoints)
                return wrong(e, "start: \"demand\" needs an endpoint whose requests start it");
            return 0;
        }
    return wrong(e, "start: \"boot\", \"demand\" or \"manual\" is needed");
}

/* --- requests -------------------------------------------------------------------------------- */

static int add_request(AppManifest *m, const char *permission, const char *reason)
{
    AppRequest *larger = reallocarray(m->requests, m->n_requests + 1, sizeof *larger), *one;

    if (!larger)
        return -ENOMEM;
    m->requests = larger;
    one = &larger[m->n_requests++];
    *one = (AppRequest){.permission = strdup(permission), .reason = strdup(reason)};
    return one->permission && one->reason ? 0 : -ENOMEM;
}

/* Registering what it says it answers is a permission like any other. */
static int add_endpoint_requests(AppManifest *m)
{
    int r = m->endpoints ? add_request(m, "endpoint.register", "answers requests") : 0;

    for (char **endpoint = m->endpoints; r >= 0 && endpoint && *endpoint; endpoint++) {
        char permission[APP_ENDPOINT_MAX + 32], reason[APP_ENDPOINT_MAX + 32];

        snprintf(permission, sizeof permission, "endpoint.register:%s", *endpoint);
        snprintf(reason, sizeof reason, "answers at %s", *endpoint);
        if (!app_manifest_request(m, permission))
            r = add_request(m, permission, reason);
    }
    return r;
}

static int read_request(const json_t *value, size_t i, AppManifest *m, hybus_config_error *e)
{
    static const char *const keys[] = {"permission", "reason", NULL};
    const char *permission, *reason;
    char where[48];
    int r;

    snprintf(where, sizeof where, "permissions[%zu]", i);
    r = only_keys(value, keys, where, e);
    if (r < 0)
        return r;
    permission = string_of(json_object_get(value, "permission"));
    reason = string_of(json_object_get(value, "reason"));
    if (!permission || !permission_is_valid(permission))
        return wrong(e, "%s.permission: the name of one permission is needed, without a *", where);
    if (!reason || !*reason || !is_plain_text(reason, APP_REASON_MAX))
        return wrong(e, "%s.reason: say in 1 to %u bytes what it is needed for", where,
                     APP_REASON_MAX);
    if (app_manifest_request(m, permission))
        return wrong(e, "%s.permission: %s stands there twice, or is requested by \"endpoints\"",
                     where, permission);
    return add_request(m, permission, reason);
}

static int read_requests(const json_t *value, AppManifest *m, hybus_config_error *e)
{
    size_t n = json_array_size(value);
    int r = add_endpoint_requests(m);

    if (value && (!json_is_array(value) || n > APP_REQUESTS_MAX))
        return wrong(e, "permissions: a list of at most %u is needed", APP_REQUESTS_MAX);
    for (size_t i = 0; i < n && r >= 0; i++)
        r = read_request(json_array_get(value, i), i, m, e);
    return r;
}

/* --- the whole ------------------------------------------------------------------------------- */

static int read_names(const json_t *value, AppManifest *m, hybus_config_error *e)
{
    const json_t *title = json_object_get(value, "title");
    const char *name = string_of(json_object_get(value, "name")),
               *shown = title ? string_of(title) : "";

    if (!name || !app_name_is_valid(name))
        return wrong(e, "name: 1 to %u of a-z, 0-9 and - are needed, a letter first", APP_NAME_MAX);
    if (!shown || strlen(shown) > APP_TITLE_MAX || !is_title(shown))
        return wrong(e, "title: at most %u printable ASCII characters, no backslash",
                     APP_TITLE_MAX);
    m->name = strdup(name);
    m->title = strdup(shown);
    return m->name && m->title ? 0 : -ENOMEM;
}

static int read_all(const json_t *value, AppManifest *m, hybus_config_error *e)
{
    static const char *const keys[] = {"name",        "title",  "exec",  "endpoints",
                                       "permissions", "limits", "start", NULL};
    const json_t *endpoints;
    int r = only_keys(value, keys, "manifest", e);

    if (r >= 0)
        r = read_names(value, m, e);
    if (r >= 0)
        r = read_list(
            json_object_get(value, "exec"), "exec", 1, APP_WORDS_MAX, is_program, is_argument,
            "the first is an absolute path of A-Z a-z 0-9 . _ + -, and none holds control "
            "characters",
            &m->exec, e);
    endpoints = json_object_get(value, "endpoints");
    if (r >= 0 && endpoints)
        r = read_list(endpoints, "endpoints", 0, APP_ENDPOINTS_MAX, is_endpoint, is_endpoint,
                      "a path like /name is needed, with segments of A-Z a-z 0-9 . _ ~ -",
                      &m->endpoints, e);
    if (r >= 0)
        r = read_requests(json_object_get(value, "permissions"), m, e);
    if (r >= 0)
        r = read_limits(json_object_get(value, "limits"), m, e);
    return r < 0 ? r : read_start(json_object_get(value, "start"), m, e);
}

int app_manifest_read(const json_t *value, AppManifest *ret, hybus_config_error *e)
{
    AppManifest m = {0};
    int r = read_all(value, &m, e);

    if (r < 0) {
        app_manifest_done(&m);
        return r;
    }
    *ret = m;
    return 0;
}

int app_manifest_parse(const char *text, size_t size, AppManifest *ret, json_t **ret_value,
                       hybus_config_error *e)
{
    _cleanup_(hybus_json_error_done) hybus_json_error bad = {0};
    _cleanup_(hybus_json_decrefp) json_t *value = NULL;
    int r;

    if (size > APP_MANIFEST_MAX)
        return wrong(e, "it is larger than %u bytes", APP_MANIFEST_MAX);
    r = hybus_json_load(text, size, &value, &bad);
    if (r < 0)
        return r == -ENOMEM ? r : wrong(e, "%s", bad.message ? bad.message : strerror(-r));
    r = app_manifest_read(value, ret, e);
    if (r >= 0 && ret_value)
        *ret_value = TAKE_PTR(value);
    return r;
}

void app_manifest_done(AppManifest *m)
{
    free(m->name);
    free(m->title);
    words_free(m->exec);
    words_free(m->endpoints);
    for (size_t i = 0; i < m->n_requests; i++) {
        free(m->requests[i].permission);
        free(m->requests[i].reason);
    }
    free(m->requests);
    *m = (AppManifest){0};
}

const AppRequest *app_manifest_request(const AppManifest *m, const char *permission)
{
    for (size_t i = 0; i < m->n_requests; i++)
        if (streq(m->requests[i].permission, permission))
            return &m->requests[i];
    return NULL;
}
