/* SPDX-License-Identifier: Apache-2.0 */
#include "bound.h"

#include <sys/queue.h>

#include "error.h"

#define SECURITY "org.hybridos.Security1"
#define SECURITY_PATH "/org/hybridos/Security1"

int hybus_bus_bind(sd_bus *bus, uint64_t handle, char **ret_principal)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    const char *principal;
    int r = sd_bus_call_method(bus, SECURITY, SECURITY_PATH, SECURITY, "Bind", &error, &reply, "t",
                               handle);

    if (r < 0 && sd_bus_error_is_set(&error))
        r = hybus_error_errno(&error);
    if (r >= 0)
        r = sd_bus_message_read(reply, "s", &principal);
    if (r >= 0 && ret_principal && !(*ret_principal = strdup(principal)))
        r = -ENOMEM;
    sd_bus_message_unref(reply);
    return r < 0 ? r : 0;
}

/* --- the pool -------------------------------------------------------------------------------- */

typedef struct Connection Connection;

struct hybus_bound {
    LIST_ENTRY(hybus_bound) list;
    Connection *connection;
    hybus_bound_ready f;
    void *userdata;
    bool told;
};

struct Connection {
    TAILQ_ENTRY(Connection) used; /* least recently first */
    hybus_bound_pool *pool;
    uint64_t handle;
    sd_bus *bus;
    sd_bus_slot *binding;
    sd_event_source *ready;
    LIST_HEAD(, hybus_bound) holders;
    int state; /* 1: bound, 0: not yet, < 0: what went wrong */
};

struct hybus_bound_pool {
    sd_event *event;
    TAILQ_HEAD(, Connection) connections;
    size_t n;
};

static void connection_free(Connection *c)
{
    TAILQ_REMOVE(&c->pool->connections, c, used);
    c->pool->n--;
    sd_event_source_disable_unref(c->ready);
    sd_bus_slot_unref(c->binding);
    if (c->bus) {
        sd_bus_detach_event(c->bus);
        sd_bus_close_unref(c->bus);
    }
    free(c);
}

/* A holder may leave, and others come, while it is told. */
static int on_ready(sd_event_source *source, void *userdata)
{
    Connection *c = userdata;
    hybus_bound *b, *next;

    for (b = LIST_FIRST(&c->holders); b; b = next) {
        next = LIST_NEXT(b, list);
        if (b->told)
            continue;
        b->told = true;
        (void)sd_event_source_set_enabled(c->ready, SD_EVENT_ONESHOT); /* again, from the start */
        b->f(c->state > 0 ? c->bus : NULL, MIN_OF(c->state, 0), b->userdata);
        return 0;
    }
    return 0;
}

static void tell(Connection *c)
{
    if (c->state != 0)
        (void)sd_event_source_set_enabled(c->ready, SD_EVENT_ONESHOT);
}

static int on_bound(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Connection *c = userdata;
    const sd_bus_error *e = sd_bus_message_get_error(m);

    c->binding = sd_bus_slot_unref(c->binding);
    c->state = e ? hybus_error_errno(e) : 1;
    if (c->state == 0)
        c->state = -EIO;
    tell(c);
    return 0;
}

static int connect_and_bind(Connection *c)
{
    int r = sd_bus_open_system(&c->bus); /* does not wait: the authentication goes on in the loop */

    if (r >= 0)
        r = sd_bus_attach_event(c->bus, c->pool->event, SD_EVENT_PRIORITY_NORMAL);
    if (r >= 0)
        r = sd_bus_call_method_async(c->bus, &c->binding, SECURITY, SECURITY_PATH, SECURITY, "Bind",
                                     on_bound, c, "t", c->handle);
    return r;
}

static bool is_lost(const Connection *c)
{
    return c->state < 0 || (c->bus && sd_bus_is_open(c->bus) <= 0);
}

/* NULL: none of this handle that is good. One that is not good and that nobody holds goes. */
static Connection *find(hybus_bound_pool *p, uint64_t handle)
{
    Connection *c, *next, *found = NULL;

    for (c = TAILQ_FIRST(&p->connections); c; c = next) {
        next = TAILQ_NEXT(c, used);
        if (is_lost(c)) {
            if (LIST_EMPTY(&c->holders))
                connection_free(c);
        } else if (c->handle == handle) {
            found = c;
        }
    }
    return found;
}

static bool make_room(hybus_bound_pool *p)
{
    Connection *c;

    if (p->n < HYBUS_BOUND_MAX)
        return true;
    TAILQ_FOREACH (c, &p->connections, used)
        if (LIST_EMPTY(&c->holders)) {
            connection_free(c);
            return true;
        }
    return false;
}

static int connection_new(hybus_bound_pool *p, uint64_t handle, Connection **ret)
{
    Connection *c;
    int r;

    if (!make_room(p))
        return -ENOBUFS;
    c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->pool = p;
    c->handle = handle;
    LIST_INIT(&c->holders);
    TAILQ_INSERT_TAIL(&p->connections, c, used);
    p->n++;
    r = sd_event_add_defer(p->event, &c->ready, on_ready, c);
    if (r >= 0)
        r = sd_event_source_set_enabled(c->ready, SD_EVENT_OFF);
    if (r >= 0)
        r = connect_and_bind(c);
    if (r < 0) {
        connection_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

int hybus_bound_pool_new(sd_event *event, hybus_bound_pool **ret)
{
    hybus_bound_pool *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->event = sd_event_ref(event);
    TAILQ_INIT(&p->connections);
    *ret = p;
    return 0;
}

void hybus_bound_pool_free(hybus_bound_pool *p)
{
    Connection *c;
    hybus_bound *b;

    if (!p)
        return;
    while ((c = TAILQ_FIRST(&p->connections))) {
        while ((b = LIST_FIRST(&c->holders)))
            hybus_bound_leave(b);
        connection_free(c);
    }
    sd_event_unref(p->event);
    free(p);
}

int hybus_bound_get(hybus_bound_pool *p, uint64_t handle, hybus_bound_ready f, void *userdata,
                    hybus_bound **ret)
{
    Connection *c = find(p, handle);
    hybus_bound *b = calloc(1, sizeof *b);
    int r = b ? 0 : -ENOMEM;

    if (r >= 0 && !c)
        r = connection_new(p, handle, &c);
    if (r < 0) {
        free(b);
        return r;
    }
    *b = (hybus_bound){.connection = c, .f = f, .userdata = userdata};
    LIST_INSERT_HEAD(&c->holders, b, list);
    TAILQ_REMOVE(&p->connections, c, used);
    TAILQ_INSERT_TAIL(&p->connections, c, used);
    tell(c);
    *ret = b;
    return 0;
}

void hybus_bound_leave(hybus_bound *b)
{
    if (!b)
        return;
    LIST_REMOVE(b, list);
    free(b);
}

size_t hybus_bound_connections(const hybus_bound_pool *p)
{
    return p->n;
}
