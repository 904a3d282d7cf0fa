/* SPDX-License-Identifier: Apache-2.0 */
/* What h-endpointd is told of apps that start on demand. A manifest there keeps a namespace for its
 * user, without asking the policy: so only what the policy grants stands in it, and nothing that is
 * another one's. h-endpointd takes all manifests or none: one that is wrong would cost everybody
 * theirs. */

#include "app-acts-internal.h"
#include "app-systemd.h"

#define REGISTRAR "h-endpointd.service"

void acts_start_unit(const App *app, char ret[APP_START_UNIT_SIZE])
{
    snprintf(ret, APP_START_UNIT_SIZE, "h-endpointd-start@h-app@%s.path", app->manifest.name);
}

/* --- whose a namespace is --------------------------------------------------------------------- */

static bool is_below(const char *ns, const char *above)
{
    const char *rest = startswith(ns, above);

    return rest && *rest == '/';
}

static bool lists(const App *app, const char *ns, bool (*matches)(const char *, const char *))
{
    for (char **endpoint = app->manifest.endpoints; endpoint && *endpoint; endpoint++)
        if (matches(ns, *endpoint))
            return true;
    return false;
}

/* As h-endpointd sees it when it is registered: what lies in another one's, or is the system's. */
static bool is_nested(const Acts *a, const App *app, const char *ns)
{
    static const char *const reserved[] = {"/system", "/nodes"};

    for (size_t i = 0; i < ELEMENTS(reserved); i++)
        if (streq(ns, reserved[i]) || is_below(ns, reserved[i]))
            return true;
    for (size_t i = 0; i < a->apps.n; i++)
        if (a->apps.list[i].uid != app->uid && lists(&a->apps.list[i], ns, is_below))
            return true;
    return false;
}

/* Two that start on demand at the same place: it is the older one's. */
static const App *older_owner(const Acts *a, const App *app, const char *ns)
{
    for (size_t i = 0; i < a->apps.n; i++) {
        const App *other = &a->apps.list[i];

        if (other->state == APP_INSTALLED && other->manifest.start == APP_START_DEMAND &&
            other->uid < app->uid && lists(other, ns, streq))
            return other;
    }
    return NULL;
}

static int holds(Acts *a, const App *app, const char *permission, const char *ns, bool *holds)
{
    char user[APP_USER_SIZE], name[APP_ENDPOINT_MAX + 32];

    if (!*holds)
        return 0;
    app_user(app->manifest.name, user);
    snprintf(name, sizeof name, "%s%s", permission, ns);
    return app_policy_check(a->bus, user, name, holds);
}

static int may_keep(Acts *a, const App *app, const char *ns, bool *ret)
{
    const App *owner = older_owner(a, app, ns);
    int r = acts_bus(a);

    *ret = true;
    if (r >= 0)
        r = holds(a, app, "endpoint.register", "", ret);
    if (r >= 0)
        r = holds(a, app, "endpoint.register:", ns, ret);
    if (r >= 0 && is_nested(a, app, ns))
        r = holds(a, app, "endpoint.nest:", ns, ret);
    if (r >= 0 && *ret && owner)
        return acts_complain(-EEXIST, "%s: the endpoint %s is kept for the app %s",
                             app->manifest.name, ns, owner->manifest.name);
    return r;
}

/* --- the file --------------------------------------------------------------------------------- */

/* Somebody's own manifest may have the same namespace. */
static int check_all(Acts *a, const App *app)
{
    int r = app_systemd_check_registrar();

    if (r >= 0)
        return 0;
    (void)app_files_remove_endpoints(&a->files, app);
    return acts_complain(
        -EEXIST, "the endpoints of %s do not go together with the other manifests of h-endpointd",
        app->manifest.name);
}

int acts_write_endpoints(Acts *a, const App *app, int *result)
{
    char **endpoints = app->manifest.start == APP_START_DEMAND ? app->manifest.endpoints : NULL;
    bool marked[APP_ENDPOINTS_MAX] = {0};
    int r = endpoints ? acts_check_user(app) : 0;

    /* Of a user who is not there none can be read. */
    if (r < 0)
        endpoints = NULL;
    for (size_t i = 0; endpoints && endpoints[i]; i++) {
        r = may_keep(a, app, endpoints[i], &marked[i]);
        if (r == -EEXIST)
            marked[i] = false;
        else if (r < 0) /* nobody can be asked: it stays as it is */
            return *result = r;
        if (r < 0)
            *result = r;
    }
    r = app_files_write_endpoints(&a->files, app, marked);
    if (r < 0)
        return *result = acts_failed("cannot write the endpoints", app, r);
    if (r > 0 && endpoints && check_all(a, app) < 0)
        *result = -EEXIST;
    return r;
}

int acts_reload_registrar(void)
{
    return app_systemd_is_active(REGISTRAR) ? app_systemd_do("reload", REGISTRAR, true) : 0;
}

int acts_withdraw_endpoints(Acts *a, const App *app)
{
    char path[APP_START_UNIT_SIZE];
    int r = app_files_remove_endpoints(&a->files, app);

    if (r < 0)
        return acts_failed("cannot remove the endpoints", app, r);
    acts_start_unit(app, path);
    (void)app_systemd_do_if_loaded("stop", path);
    return r > 0 ? acts_reload_registrar() : 0;
}
