/* SPDX-License-Identifier: Apache-2.0 */
#include "app-policy.h"

#include <hybus/error.h>

#include "../securityd/words.h"

#define SECURITY "org.hybridos.Security1"
#define PATH "/org/hybridos/Security1"
#define ANSWER_USEC (60u * UINT64_C(1000000)) /* a bus with many rules takes seconds to reload */

static int complain(const char *what, int r, const char *message)
{
    fprintf(stderr, "h-app: %s: %s\n", what, message && *message ? message : strerror(-r));
    return r;
}

int app_policy_open(sd_bus **ret)
{
    int r = hybus_error_register();

    if (r >= 0)
        r = sd_bus_open_system(ret);
    if (r >= 0)
        r = sd_bus_set_method_call_timeout(*ret, ANSWER_USEC);
    return r < 0 ? complain("cannot reach the system bus", r, NULL) : 0;
}

/* *ret may be wanted by nobody. */
static int call(sd_bus *bus, const char *method, sd_bus_message **ret, const char *types, ...)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    va_list args;
    int r;

    va_start(args, types);
    r = sd_bus_call_methodv(bus, SECURITY, PATH, SECURITY, method, &error, ret, types, args);
    va_end(args);
    return r < 0 ? complain(method, r, error.message) : 0;
}

int app_policy_note(sd_bus *bus, const char *act, const char *name, uint32_t uid)
{
    return call(bus, "NoteApp", NULL, "ssu", act, name, uid);
}

int app_policy_check(sd_bus *bus, const char *user, const char *permission, bool *ret)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    char subject[64];
    int allowed, r;

    snprintf(subject, sizeof subject, "unix:%s", user);
    r = call(bus, "Check", &reply, "ss", subject, permission);
    if (r < 0)
        return r;
    r = sd_bus_message_read(reply, "b", &allowed);
    if (r < 0)
        return complain("Check", r, NULL);
    *ret = allowed;
    return 0;
}

int app_policy_grant(sd_bus *bus, const char *user, const char *permission)
{
    char subject[64];

    snprintf(subject, sizeof subject, "unix:%s", user);
    return call(bus, "Grant", NULL, "ssss", "", subject, permission, "");
}

int app_policy_reload(sd_bus *bus)
{
    return call(bus, "Reload", NULL, "");
}

/* --- what is there already ------------------------------------------------------------------- */

typedef struct Whom {
    char unix_name[64], uid[24];
    const char *permission;
    char **revoke; /* ids of rules */
} Whom;

static bool lists(const char *list, const char *word)
{
    char **words = NULL;
    bool found = words_split(list, &words) >= 0 && words_contain(words, word);

    words_free(words);
    return found;
}

/* A rule that names several: which of them is to stay only a person can say. */
static int look_at(Whom *w, const char *id, const char *to, const char *permissions,
                   const char *file, uint32_t line)
{
    bool alone = streq(to, w->unix_name) || streq(to, w->uid);

    if (!alone && !lists(to, w->unix_name) && !lists(to, w->uid))
        return 0;
    if (w->permission && !lists(permissions, w->permission))
        return 0;
    if (alone && strstr(file, "/70-granted-") &&
        (!w->permission || streq(permissions, w->permission)))
        return words_add(&w->revoke, id, strlen(id));
    fprintf(stderr, "h-app: rule %s (%s:%u) names it too, and stays as it is: see h-policy(1)\n",
            id, file, line);
    return 0;
}

static int find_rules(sd_bus *bus, Whom *w)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    const char *id, *kind, *to, *permissions, *when, *file;
    uint32_t line;
    int r = call(bus, "ListRules", &reply, "");

    if (r < 0)
        return r;
    r = sd_bus_message_enter_container(reply, 'a', "(ssssssu)");
    while (r >= 0 && (r = sd_bus_message_read(reply, "(ssssssu)", &id, &kind, &to, &permissions,
                                              &when, &file, &line)) > 0)
        r = look_at(w, id, to, permissions, file, line);
    return r < 0 ? complain("ListRules", r, NULL) : 0;
}

int app_policy_revoke(sd_bus *bus, const char *user, uint32_t uid, const char *permission)
{
    Whom w = {.permission = permission};
    int n = 0, r;

    snprintf(w.unix_name, sizeof w.unix_name, "unix:%s", user);
    snprintf(w.uid, sizeof w.uid, "uid:%u", uid);
    r = find_rules(bus, &w);
    for (char **id = w.revoke; r >= 0 && id && *id; id++, n++)
        r = call(bus, "Revoke", NULL, "s", *id);
    words_free(w.revoke);
    return r < 0 ? r : n;
}
