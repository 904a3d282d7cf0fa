/* SPDX-License-Identifier: Apache-2.0 */
/* An endpoint core without responders: the server's translation, limits and defences are tried
 * against canned answers. The real core has tests of its own.
 *
 *   /hello    200 "hello world\n"             /echo     200, the request as text, then its body
 *   /slow     no answer, ever                 /stream   200, a megabyte in pieces, under credit
 *   /events   a value now, and each /events/next makes another
 *   /html     a page of an app                /evil     fields that a responder must not set
 *   /json     200, an object with what was sent as "got"
 * Tokens: "good" is authenticated, "wait" is never checked, "throttled" is, all others are wrong.
 */

#include <endpoint/endpoint.h>

#define STREAM_SIZE (1024u * 1024u)
#define CREDIT (256u * 1024u)

struct endpoint_core {
    sd_event *event;
    endpoint_watch *watches;
    size_t open, listings;
    uint64_t sequence;
};

struct endpoint_peer {
    endpoint_core *core;
    const endpoint_peer_ops *ops;
    void *userdata;
    sd_event_source *check;
    bool authenticated;
    int error;
};

struct endpoint_request {
    endpoint_core *core;
    const endpoint_reply_ops *ops;
    void *userdata;
    sd_event_source *later;
    char *text;
    size_t text_size, sent, credit;
    bool echo, stream, html, json;
    bool *gone; /* told when it is freed from within a piece */
};

struct endpoint_watch {
    endpoint_watch *next;
    endpoint_core *core;
    const endpoint_watch_ops *ops;
    void *userdata;
    sd_event_source *later;
};

int endpoint_core_new(const endpoint_options *options, endpoint_core **ret)
{
    endpoint_core *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->event = sd_event_ref(options->event);
    c->sequence = 1;
    *ret = c;
    return 0;
}

void endpoint_core_free(endpoint_core *c)
{
    sd_event_unref(c->event);
    free(c);
}

void endpoint_core_configure(endpoint_core *c, const endpoint_settings *s)
{
}

void endpoint_core_drain(endpoint_core *c)
{
}

size_t endpoint_core_open_requests(const endpoint_core *c)
{
    return c->open;
}

void endpoint_core_flush(endpoint_core *c)
{
}

bool endpoint_core_has(const endpoint_core *c, const char *path)
{
    static const char *const known[] = {"/hello",  "/echo", "/slow", "/stream",
                                        "/events", "/html", "/evil", "/system", "/json"};

    for (size_t i = 0; i < ELEMENTS(known); i++)
        if (startswith(path, known[i]))
            return true;
    return false;
}

void endpoint_core_statistics(const endpoint_core *c, endpoint_statistics *ret)
{
    *ret = (endpoint_statistics){.open_requests = c->open};
}

/* --- peers
 * ---------------------------------------------------------------------------------------- */

static int on_check(sd_event_source *s, void *userdata)
{
    endpoint_peer *p = userdata;

    p->ops->checked(p, p->error, p->error == -EAGAIN ? 2000000u : 0, p->userdata);
    return 0;
}

int endpoint_peer_new(endpoint_core *c, const hybus_connection *connection,
                      const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret)
{
    endpoint_peer *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    p->core = c;
    p->ops = ops;
    p->userdata = userdata;
    if (connection->bearer) {
        p->authenticated = streq(connection->bearer, "good");
        p->error = p->authenticated ? 0 : -EKEYREJECTED;
        if (streq(connection->bearer, "throttled"))
            p->error = -EAGAIN;
    }
    *ret = p;
    if (connection->bearer && streq(connection->bearer, "wait"))
        return 0;
    return sd_event_add_defer(c->event, &p->check, on_check, p);
}

int endpoint_peer_new_like(const endpoint_peer *like, const hybus_connection *connection,
                           const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret)
{
    return -EAGAIN;
}

void endpoint_peer_free(endpoint_peer *p)
{
    if (!p)
        return;
    sd_event_source_disable_unref(p->check);
    free(p);
}

const char *endpoint_peer_principal(const endpoint_peer *p)
{
    return p->authenticated ? "token:good" : "anonymous";
}

bool endpoint_peer_anonymous(const endpoint_peer *p)
{
    return !p->authenticated;
}

uint64_t endpoint_peer_handle(const endpoint_peer *p)
{
    return p->authenticated ? 1 : 0;
}

/* $FAKE_LISTING: "/a /b". */
static void each_more(void (*each)(const endpoint_listing *l, void *userdata), void *userdata)
{
    char *copy = strdup(strempty(getenv("FAKE_LISTING"))), *at = NULL;

    for (char *name = strtok_r(copy, " ", &at); name; name = strtok_r(NULL, " ", &at))
        each(&(endpoint_listing){.namespace = name}, userdata);
    free(copy);
}

int endpoint_peer_list(endpoint_peer *p, void (*each)(const endpoint_listing *l, void *userdata),
                       void *userdata)
{
    static const endpoint_listing list[] = {{"/hello", NULL}, {"/json", "says \"you\"", "rt=\"x.y z\";if=s;ct=50"}};

    if (p->core->listings++ == 0)
        return -EAGAIN;
    for (size_t i = 0; i < ELEMENTS(list); i++)
        each(&list[i], userdata);
    each_more(each, userdata);
    return 0;
}

/* --- requests
 * ------------------------------------------------------------------------------------- */

static void reply_text(endpoint_request *r, const char *type, const char *text, size_t size)
{
    endpoint_field fields[] = {{"content-type", 12, type, strlen(type)}};

    r->ops->reply(r, 200, fields, 1, text, size, true, r->userdata);
}

static void reply_evil(endpoint_request *r)
{
    static const char *const pairs[][2] = {{"content-type", "text/html"},
                                           {"set-cookie", "a=b"},
                                           {"strict-transport-security", "max-age=1"},
                                           {"connection", "upgrade"},
                                           {"access-control-allow-origin", "*"},
                                           {"content-length", "1"},
                                           {"transfer-encoding", "chunked"},
                                           {"clear-site-data", "*"},
                                           {"service-worker-allowed", "/"},
                                           {"x-fine", "yes"}};
    endpoint_field fields[ELEMENTS(pairs)];

    for (size_t i = 0; i < ELEMENTS(pairs); i++)
        fields[i] =
            (endpoint_field){pairs[i][0], strlen(pairs[i][0]), pairs[i][1], strlen(pairs[i][1])};
    r->ops->reply(r, 200, fields, ELEMENTS(fields), "evil", 4, true, r->userdata);
}

static void pump(endpoint_request *r)
{
    static char piece[32 * 1024];
    bool gone = false;

    if (r->gone) /* credit from within a piece: the loop below sees it */
        return;
    r->gone = &gone;
    memset(piece, 'x', sizeof(piece));
    while (r->sent < STREAM_SIZE && r->credit >= sizeof(piece)) {
        r->sent += sizeof(piece);
        r->credit -= sizeof(piece);
        r->ops->data(r, piece, sizeof(piece), r->sent == STREAM_SIZE, r->userdata);
        if (gone)
            return;
    }
    r->gone = NULL;
}

static int on_later(sd_event_source *s, void *userdata)
{
    endpoint_request *r = userdata;
    endpoint_field fields[] = {{"content-type", 12, "text/plain", 10}};

    if (r->stream) {
        r->ops->reply(r, 200, fields, 1, NULL, 0, false, r->userdata);
        pump(r);
    } else if (r->echo) {
        reply_text(r, "text/plain", r->text, r->text_size);
    } else if (r->json) {
        char *body = memmem(r->text, r->text_size, "\n\n", 2), text[4096];
        int size = (int)(r->text + r->text_size - (body + 2));

        snprintf(text, sizeof(text), "{\"n\":-1,\"got\":%.*s}", size ? size : 4,
                 size ? body + 2 : "null");
        reply_text(r, "application/json", text, strlen(text));
    } else if (r->html) {
        reply_text(r, "text/html", "<p>page</p>", 11);
    } else {
        reply_text(r, "text/plain", "hello world\n", 12);
    }
    return 0;
}

static void describe(endpoint_request *r, const endpoint_request_info *info)
{
    FILE *f = open_memstream(&r->text, &r->text_size);

    fprintf(f, "%s %s ?%s\n", info->method, info->path, info->query);
    for (size_t i = 0; i < info->n_headers; i++)
        fprintf(f, "%.*s: %.*s\n", (int)info->headers[i].name_size, info->headers[i].name,
                (int)info->headers[i].value_size, info->headers[i].value);
    fprintf(f, "\n");
    if (info->body_size)
        fwrite(info->body, 1, info->body_size, f);
    fclose(f);
}

static void next_value(endpoint_core *c);

int endpoint_request_new(endpoint_peer *p, const endpoint_request_info *info,
                         const endpoint_reply_ops *ops, void *userdata, endpoint_request **ret)
{
    endpoint_request *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    *r = (endpoint_request){.core = p->core, .ops = ops, .userdata = userdata, .credit = CREDIT};
    r->core->open++;
    *ret = r;
    if (startswith(info->path, "/slow"))
        return 0;
    if (streq(info->path, "/evil")) {
        reply_evil(r);
        return 0;
    }
    if (!endpoint_core_has(p->core, info->path)) {
        ops->reply(r, 404, NULL, 0, "{}", 2, true, userdata);
        return 0;
    }
    if (streq(info->path, "/events/next"))
        next_value(r->core);
    r->stream = startswith(info->path, "/stream");
    r->html = startswith(info->path, "/html");
    r->json = startswith(info->path, "/json");
    r->echo = startswith(info->path, "/echo");
    describe(r, info);
    return info->body_end ? sd_event_add_defer(r->core->event, &r->later, on_later, r) : 0;
}

int endpoint_request_body(endpoint_request *r, const void *data, size_t size, bool end)
{
    r->text = realloc(r->text, r->text_size + size);
    memcpy(r->text + r->text_size, data, size);
    r->text_size += size;
    return end && !r->later ? sd_event_add_defer(r->core->event, &r->later, on_later, r) : 0;
}

void endpoint_request_consumed(endpoint_request *r, size_t size)
{
    r->credit += size;
    if (r->stream)
        pump(r);
}

uint32_t endpoint_request_uid(const endpoint_request *r)
{
    return r->html ? 60700 : 60680;
}

void endpoint_request_free(endpoint_request *r)
{
    if (!r)
        return;
    if (r->gone)
        *r->gone = true;
    r->core->open--;
    sd_event_source_disable_unref(r->later);
    free(r->text);
    free(r);
}

/* --- watches
 * -------------------------------------------------------------------------------------- */

static void send_value(endpoint_watch *w, uint64_t received_usec)
{
    char id[24], body[64];
    endpoint_value v = {.path = "/events",
                        .content_type = "text/plain",
                        .id = id,
                        .body = body,
                        .sequence = w->core->sequence,
                        .received_usec = received_usec};

    snprintf(id, sizeof(id), "v%llu", (unsigned long long)w->core->sequence);
    v.size = (size_t)snprintf(body, sizeof(body), "value %s\nsecond line", id);
    w->ops->value(w, &v, w->userdata);
}

static void next_value(endpoint_core *c)
{
    c->sequence++;
    for (endpoint_watch *w = c->watches; w; w = w->next)
        send_value(w, UINT64_MAX);
}

static int on_watch(sd_event_source *s, void *userdata)
{
    endpoint_watch *w = userdata;
    endpoint_core *c = w->core;

    w->ops->started(w, w->userdata);
    for (endpoint_watch *one = c->watches; one; one = one->next) /* it may be gone now */
        if (one == w) {
            send_value(w, 0);
            break;
        }
    return 0;
}

int endpoint_watch_new(endpoint_peer *p, const char *path, const endpoint_watch_ops *ops,
                       void *userdata, endpoint_watch **ret)
{
    endpoint_watch *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->core = p->core;
    w->ops = ops;
    w->userdata = userdata;
    w->next = w->core->watches;
    w->core->watches = w;
    *ret = w;
    return sd_event_add_defer(w->core->event, &w->later, on_watch, w);
}

int endpoint_watch_resume(endpoint_peer *p, const char *path, const char *last_id,
                          const endpoint_watch_ops *ops, void *userdata, endpoint_watch **ret)
{
    return endpoint_watch_new(p, path, ops, userdata, ret);
}

void endpoint_watch_next(endpoint_watch *w)
{
}

void endpoint_watch_free(endpoint_watch *w)
{
    endpoint_watch **at = w ? &w->core->watches : NULL;

    if (!w)
        return;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    sd_event_source_disable_unref(w->later);
    free(w);
}
