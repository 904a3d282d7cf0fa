/* SPDX-License-Identifier: Apache-2.0 */

/* Endpoints and the conversation with the registrar: what is registered, what was refused, and
 * which servers there are. */

#include <stdio.h>

#include "internal.h"

static bool valid_namespace(const char *s)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~-";

    if (s[0] != '/' || strlen(s) > CHANNEL_NAMESPACE_MAX)
        return false;
    while (*s == '/') {
        s++;
        size_t n = strspn(s, allowed);
        if (n == 0 || (n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
            return false;
        s += n;
    }
    return *s == '\0';
}

static hybridos_endpoint *find_namespace(hybridos_app *app, const char *namespace_)
{
    for (hybridos_endpoint *e = app->endpoints; e; e = e->next)
        if (!e->removed && strcmp(e->namespace_, namespace_) == 0)
            return e;
    return NULL;
}

static hybridos_endpoint *find_id(hybridos_app *app, uint32_t id)
{
    for (hybridos_endpoint *e = app->endpoints; e; e = e->next)
        if (!e->removed && e->id == id)
            return e;
    return NULL;
}

int hybridos_register(hybridos_app *app, const char *namespace_, hybridos_request_fn request,
                      void *userdata, hybridos_endpoint **ret)
{
    if (!namespace_ || !request || !valid_namespace(namespace_))
        return -EINVAL;
    if (find_namespace(app, namespace_))
        return -EEXIST;
    hybridos_endpoint *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->app = app;
    e->request = request;
    e->userdata = userdata;
    e->namespace_ = strdup(namespace_);
    e->reason = strdup("");
    if (!e->namespace_ || !e->reason) {
        endpoint_free(e);
        return -ENOMEM;
    }
    e->next = app->endpoints;
    app->endpoints = e;
    app_kick(app);
    if (ret)
        *ret = e;
    return 0;
}

void endpoint_free(hybridos_endpoint *e)
{
    for (size_t i = 0; i < e->n_rules; i++)
        free(e->rules[i]);
    free(e->namespace_);
    free(e->title);
    free(e->attributes);
    free(e->reason);
    free(e);
}

void hybridos_unregister(hybridos_endpoint *e)
{
    hybridos_app *app = e->app;

    if (e->removed)
        return;
    e->removed = true;
    for (struct connection *c = app->servers; c; c = c->next)
        server_forget(c, e);
    if (app->registrar->fd >= 0 && (e->state == ENDPOINT_ASKED || e->state == ENDPOINT_REGISTERED))
        wire_put(&app->registrar->out, CHANNEL_UNREGISTER, 0, 0, e->id, 0, NULL, 0);
    app_kick(app);
}

int hybridos_endpoint_rule(hybridos_endpoint *e, const char *rule)
{
    if (e->state != ENDPOINT_NEW)
        return -EBUSY;
    if (e->n_rules == RULES_MAX)
        return -E2BIG;
    if (strlen(rule) > 1024)
        return -EINVAL;
    char *copy = strdup(rule);
    if (!copy)
        return -ENOMEM;
    e->rules[e->n_rules++] = copy;
    return 0;
}

static int set_text(hybridos_endpoint *e, char **field, const char *text, size_t most)
{
    if (e->state != ENDPOINT_NEW)
        return -EBUSY;
    if (strlen(text) > most)
        return -EINVAL;
    char *copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

int hybridos_endpoint_title(hybridos_endpoint *e, const char *title)
{
    return set_text(e, &e->title, title, 256);
}

int hybridos_endpoint_attributes(hybridos_endpoint *e, const char *attributes)
{
    return set_text(e, &e->attributes, attributes, 512);
}

void hybridos_endpoint_takeover(hybridos_endpoint *e)
{
    e->takeover = true;
}

void hybridos_on_state(hybridos_endpoint *e, hybridos_state_fn state)
{
    e->state_changed = state;
}

void hybridos_on_cancel(hybridos_endpoint *e, hybridos_cancel_fn cancel)
{
    e->cancel = cancel;
}

void hybridos_on_body(hybridos_endpoint *e, hybridos_body_fn body)
{
    e->body = body;
}

void hybridos_on_writable(hybridos_endpoint *e, hybridos_writable_fn writable)
{
    e->writable = writable;
}

void hybridos_on_watch(hybridos_endpoint *e, hybridos_watch_fn watch)
{
    e->watch = watch;
}

void hybridos_on_resume(hybridos_endpoint *e, hybridos_resume_fn resume)
{
    e->resume = resume;
}

const char *hybridos_endpoint_namespace(const hybridos_endpoint *e)
{
    return e->namespace_;
}

const char *hybridos_endpoint_reason(const hybridos_endpoint *e)
{
    return e->reason;
}

unsigned hybridos_endpoint_servers(const hybridos_endpoint *e)
{
    unsigned n = 0;
    for (const struct connection *c = e->app->servers; c; c = c->next)
        for (const struct attachment *a = c->attachments; a; a = a->next)
            n += a->endpoint == e && a->state == ATTACHMENT_UP;
    return n;
}

static void ask(hybridos_app *app, hybridos_endpoint *e)
{
    struct buffer *out = &app->registrar->out;

    e->id = app_new_id(app);
    size_t at = wire_begin(out);
    wire_put_field(out, ":namespace", e->namespace_);
    if (e->key[0])
        wire_put_field(out, ":key", e->key);
    for (size_t i = 0; i < e->n_rules; i++)
        wire_put_field(out, ":rule", e->rules[i]);
    if (e->title)
        wire_put_field(out, ":title", e->title);
    if (e->attributes)
        wire_put_field(out, ":attributes", e->attributes);
    if (e->takeover)
        wire_put_field(out, ":takeover", "1");
    wire_finish(out, at, CHANNEL_REGISTER, 0, 0, e->id, 0);
    e->state = ENDPOINT_ASKED;
    e->retry.at = 0;
}

void registrar_turn(hybridos_app *app, uint64_t now)
{
    struct connection *c = app->registrar;

    if (c->fd < 0 && c->retry.at <= now)
        connection_connect(c);
    if (c->fd < 0)
        return;
    for (hybridos_endpoint *e = app->endpoints; e; e = e->next)
        if (!e->removed && e->state == ENDPOINT_NEW && e->retry.at <= now)
            ask(app, e);
}

/* The registrar has gone: requests go on, and registrations are asked for again with their keys. */
void registrar_lost(struct connection *c)
{
    for (hybridos_endpoint *e = c->app->endpoints; e; e = e->next)
        if (e->state != ENDPOINT_REFUSED) {
            e->state = ENDPOINT_NEW;
            e->retry = (struct retry){0};
        }
    for (struct connection *s = c->app->servers; s; s = s->next)
        s->stale = true;
}

static int handle_registered(struct connection *c, const struct frame *f)
{
    hybridos_endpoint *e = find_id(c->app, f->stream);
    struct field key;

    if (!wire_find(f->payload, f->length, ":key", &key) || key.value_size == 0 ||
        key.value_size >= sizeof(e->key) || memchr(key.value, '\0', key.value_size))
        return -EBADMSG;
    if (!e || e->state != ENDPOINT_ASKED)
        return 0;
    if (strlen(e->key) != key.value_size || memcmp(e->key, key.value, key.value_size) != 0) {
        /* A new place: what the servers have attached belongs to the old one. */
        for (struct connection *s = c->app->servers; s; s = s->next)
            server_forget(s, e);
        memcpy(e->key, key.value, key.value_size);
        e->key[key.value_size] = '\0';
    }
    e->state = ENDPOINT_REGISTERED;
    e->retry = (struct retry){0};
    if (e->state_changed)
        e->state_changed(e, HYBRIDOS_REGISTERED, "", e->userdata);
    return 0;
}

static int refusal_error(unsigned code)
{
    switch (code) {
    case 403:
        return -EACCES;
    case 409:
        return -EEXIST;
    case 410:
        return -ESTALE;
    default:
        return -EINVAL;
    }
}

static void set_reason(hybridos_endpoint *e, const struct frame *f)
{
    struct field reason = {0}, audit = {0};
    char *text = NULL;

    wire_find(f->payload, f->length, ":reason", &reason);
    int n = wire_find(f->payload, f->length, ":audit", &audit)
                ? asprintf(&text, "%u: %.*s (audit %.*s)", f->code, (int)reason.value_size,
                           reason.value, (int)audit.value_size, audit.value)
                : asprintf(&text, "%u: %.*s", f->code, (int)reason.value_size, reason.value);
    if (n < 0)
        return;
    free(e->reason);
    e->reason = text;
}

static int handle_refused(struct connection *c, const struct frame *f)
{
    hybridos_endpoint *e = find_id(c->app, f->stream);
    if (!e || e->state == ENDPOINT_REFUSED || e->state == ENDPOINT_NEW)
        return 0;

    set_reason(e, f);
    if (f->code == 429 || f->code == 503) {
        e->state = ENDPOINT_NEW;
        retry_later(&e->retry);
    } else {
        e->state = ENDPOINT_REFUSED;
        e->key[0] = '\0';
        for (struct connection *s = c->app->servers; s; s = s->next)
            server_forget(s, e);
        if (!e->state_changed)
            c->app->error = refusal_error(f->code);
    }
    if (e->state_changed)
        e->state_changed(e, f->code, e->reason, e->userdata);
    return 0;
}

static int handle_server(struct connection *c, const struct frame *f)
{
    hybridos_app *app = c->app;
    struct field name_field, path_field;
    int r = 0;

    if (!wire_find(f->payload, f->length, ":name", &name_field))
        return -EBADMSG;
    char *name = wire_copy(&name_field);
    if (!name)
        return -ENOMEM;
    struct connection *s = app->servers;
    while (s && (s->removed || strcmp(s->name, name) != 0))
        s = s->next;

    if (f->flags & CHANNEL_GONE) {
        if (s) {
            connection_lost(s);
            s->removed = true;
        }
    } else if (!wire_find(f->payload, f->length, ":socket", &path_field) ||
               path_field.value_size == 0 || path_field.value[0] != '/') {
        r = -EBADMSG;
    } else {
        char *path = wire_copy(&path_field);
        if (s && path && strcmp(s->path, path) == 0) {
            s->stale = false;
        } else if (path && app->n_servers < SERVERS_MAX) {
            if (s) {
                connection_lost(s);
                s->removed = true;
            }
            s = connection_new(app, ROLE_SERVER, name, path);
            if (s) {
                s->next = app->servers;
                app->servers = s;
                app->n_servers++;
            } else {
                r = -ENOMEM;
            }
        }
        free(path);
    }
    free(name);
    return r;
}

int registrar_frame(struct connection *c, const struct frame *f)
{
    int r = wire_check_fields(f->payload, f->length);
    if (r < 0)
        return r;
    switch (f->type) {
    case CHANNEL_REGISTERED:
        return handle_registered(c, f);
    case CHANNEL_REFUSED:
        return handle_refused(c, f);
    case CHANNEL_SERVER:
        return handle_server(c, f);
    default:
        return -EBADMSG;
    }
}
