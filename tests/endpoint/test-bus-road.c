/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "device.h"

#define KEY "0123456789abcdef"
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

typedef struct bus_app {
    sd_bus *bus, *far; /* the app's end, the core's end */
    sd_bus_message *call;
    unsigned calls, cancels, watches;
    uint32_t watchers;
    char id[64], path[64], cancelled[64], headers[256];
    int stream, body_fd;
    size_t body_size;
    char watched[64];
    bool mute; /* keeps calls of Watch */
    sd_bus_message *untold[2 * LIMIT_BUS_WATCHES];
    size_t n_untold;
    bool keep; /* calls, to answer them later */
    sd_bus_message *kept[1024];
    size_t n_kept;
} bus_app;

static void read_fields(sd_bus_message *m, char *text, size_t size)
{
    const char *name, *value;
    size_t at = 0;

    assert_true(sd_bus_message_enter_container(m, 'v', "a(ss)") > 0);
    assert_true(sd_bus_message_enter_container(m, 'a', "(ss)") > 0);
    while (sd_bus_message_read(m, "(ss)", &name, &value) > 0)
        at += (size_t)snprintf(text + at, size - at, "%s=%s ", name, value);
    assert_true(sd_bus_message_exit_container(m) >= 0);
    assert_true(sd_bus_message_exit_container(m) >= 0);
}

static int on_handle(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    bus_app *app = userdata;
    const char *key, *text;
    const void *body;
    int fd;

    app->calls++;
    if (app->keep) {
        assert_true(app->n_kept < ELEMENTS(app->kept));
        app->kept[app->n_kept++] = sd_bus_message_ref(m);
        return 1;
    }
    sd_bus_message_unref(app->call);
    app->call = sd_bus_message_ref(m);
    assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") > 0);
    while (sd_bus_message_enter_container(m, 'e', "sv") > 0) {
        assert_true(sd_bus_message_read(m, "s", &key) > 0);
        if (streq(key, "stream") || streq(key, "body")) {
            assert_true(sd_bus_message_read(m, "v", "h", &fd) > 0);
            *(streq(key, "body") ? &app->body_fd : &app->stream) = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        } else if (streq(key, "id") || streq(key, "path")) {
            assert_true(sd_bus_message_read(m, "v", "s", &text) > 0);
            snprintf(streq(key, "id") ? app->id : app->path, 64, "%s", text);
        } else if (streq(key, "headers"))
            read_fields(m, app->headers, sizeof(app->headers));
        else
            assert_true(sd_bus_message_skip(m, "v") >= 0);
        assert_true(sd_bus_message_exit_container(m) >= 0);
    }
    assert_true(sd_bus_message_exit_container(m) >= 0);
    assert_true(sd_bus_message_read_array(m, 'y', &body, &app->body_size) >= 0);
    return 1;
}

static int on_cancel(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    bus_app *app = userdata;
    const char *id;

    assert_true(sd_bus_message_read(m, "s", &id) > 0);
    snprintf(app->cancelled, sizeof(app->cancelled), "%s", id);
    app->cancels++;
    return 1;
}

static int on_watch(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    bus_app *app = userdata;
    const char *path;

    assert_true(sd_bus_message_read(m, "su", &path, &app->watchers) > 0);
    snprintf(app->watched, sizeof(app->watched), "%s", path);
    app->watches++;
    if (!app->mute)
        return sd_bus_reply_method_return(m, NULL);
    assert_true(app->n_untold < ELEMENTS(app->untold));
    app->untold[app->n_untold++] = sd_bus_message_ref(m);
    return 1;
}

static void answer_watch(bus_app *app)
{
    assert_true(app->n_untold > 0);
    assert_true(sd_bus_reply_method_return(app->untold[--app->n_untold], NULL) >= 0);
    sd_bus_message_unref(app->untold[app->n_untold]);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Handle", "a{sv}ay", "ua(ss)a{sv}", on_handle, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Cancel", "s", "", on_cancel,
                  SD_BUS_VTABLE_UNPRIVILEGED | SD_BUS_VTABLE_METHOD_NO_REPLY),
    SD_BUS_METHOD("Watch", "su", "", on_watch, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static sd_bus *bus_end(int fd, bool server)
{
    sd_id128_t id = {};
    sd_bus *b;

    assert_true(sd_bus_new(&b) >= 0);
    assert_true(sd_bus_set_fd(b, fd, fd) >= 0);
    assert_true(sd_bus_set_anonymous(b, true) >= 0);
    assert_true(sd_bus_negotiate_fds(b, true) >= 0);
    if (server)
        assert_true(sd_bus_set_server(b, true, id) >= 0);
    assert_true(sd_bus_start(b) >= 0);
    return b;
}

static device *bus_device(const endpoint_settings *s, bus_app *app, client *c)
{
    char uid[16];
    int fds[2];
    device *d;

    *app = (bus_app){.stream = -1, .body_fd = -1};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    app->bus = bus_end(fds[0], true);
    app->far = bus_end(fds[1], false);
    d = device_new(s, app->far);
    assert_true(sd_bus_attach_event(app->bus, d->event, 0) >= 0);
    assert_true(sd_bus_add_object_vtable(app->bus, NULL, "/app", "org.hybridos.Responder1", vtable,
                                         app) >= 0);
    wait_for(d, sd_bus_is_ready(app->bus) > 0 && sd_bus_is_ready(app->far) > 0);
    snprintf(uid, sizeof(uid), "%u", getuid());
    registrar_entry(d, 0, ":revision", "1", ":namespace", "/bus", ":key", KEY, ":uid", uid, ":road",
                    "bus", ":bus-name", ":1.7", ":object", "/app", ":stream", "1", ":watch", "1",
                    NULL);
    registrar_entry(d, 0, ":revision", "2", ":namespace", "/plain", ":key", KEY, ":uid", uid,
                    ":road", "bus", ":bus-name", ":1.7", ":object", "/app", NULL);
    wait_for(d, endpoint_core_has(d->core, "/plain"));
    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    client_new(d, c, NULL);
    return d;
}

static void bus_device_free(device *d, bus_app *app, client *c)
{
    client_free(c);
    sd_bus_message_unref(app->call);
    while (app->n_kept > 0)
        sd_bus_message_unref(app->kept[--app->n_kept]);
    while (app->n_untold > 0)
        sd_bus_message_unref(app->untold[--app->n_untold]);
    safe_close(app->stream);
    safe_close(app->body_fd);
    sd_bus_detach_event(app->bus);
    device_free(d);
    sd_bus_close_unref(app->bus);
    sd_bus_close_unref(app->far);
}

static sd_bus_message *reply_begin(bus_app *app, uint32_t status, const char *name,
                                   const char *value)
{
    sd_bus_message *m;

    assert_true(sd_bus_message_new_method_return(app->call, &m) >= 0);
    assert_true(sd_bus_message_append(m, "ua(ss)", status, 1, name, value) >= 0);
    return m;
}

static void reply_send(bus_app *app, sd_bus_message *m)
{
    assert_true(sd_bus_send(app->bus, m, NULL) >= 0);
    sd_bus_message_unref(m);
}

static void answer_one(bus_app *app, size_t which)
{
    assert_true(which < app->n_kept);
    sd_bus_message_unref(app->call);
    app->call = app->kept[which];
    memmove(app->kept + which, app->kept + which + 1, (--app->n_kept - which) * sizeof(*app->kept));
    {
        sd_bus_message *m = reply_begin(app, 200, "content-type", "text/plain");
        assert_true(sd_bus_message_append(m, "a{sv}", 1, "body", "ay", 2, 'o', 'k') >= 0);
        reply_send(app, m);
    }
}

static void answer_kept(bus_app *app)
{
    answer_one(app, 0);
}

static void answer_last(bus_app *app)
{
    answer_one(app, app->n_kept - 1);
}

static void reply_fd(bus_app *app, int fd)
{
    sd_bus_message *m = reply_begin(app, 200, "content-type", "application/octet-stream");

    assert_true(sd_bus_message_append(m, "a{sv}", 1, "body", "h", fd) >= 0);
    reply_send(app, m);
    close(fd);
}

static blkcnt_t st_blocks(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return st.st_blocks;
}

static int memfd_of(size_t size)
{
    int fd = memfd_create("reply", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void test_inline(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *a = request(&c, "POST", "/bus/x", "hello", 5, true);
    sd_bus_message *m;

    wait_for(d, app.calls == 1);
    assert_string_equal(app.path, "/bus/x");
    assert_int_equal(app.body_size, 5);
    m = reply_begin(&app, 201, "content-type", "text/plain");
    assert_true(sd_bus_message_append(m, "a{sv}", 1, "body", "ay", 3, 'a', 'b', 'c') >= 0);
    reply_send(&app, m);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 201);
    assert_memory_equal(a->body, "abc", 3);
    answer_free(a);

    /* Control characters, and an error instead of an answer. */
    a = request(&c, "GET", "/bus", NULL, 0, true);
    wait_for(d, app.calls == 2);
    m = reply_begin(&app, 200, "x-a", "b\nc");
    assert_true(sd_bus_message_append(m, "a{sv}", 0) >= 0);
    reply_send(&app, m);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 502);
    answer_free(a);
    a = request(&c, "GET", "/bus", NULL, 0, true);
    wait_for(d, app.calls == 3);
    assert_true(sd_bus_reply_method_errorf(app.call, SD_BUS_ERROR_FAILED, "no") >= 0);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 502);
    answer_free(a);

    /* A field that D-Bus cannot carry stays behind, and takes no other with it. */
    {
        static const endpoint_field headers[] = {
            {"x-a", 3, "1", 1}, {"x-b", 3, "2\xff", 2}, {"x-c", 3, "3", 1}};
        a = request_with(&c, "GET", "/bus", headers, ELEMENTS(headers));
        wait_for(d, app.calls == 4);
        assert_string_equal(app.headers, "x-a=1 x-c=3 ");
        answer_free(a);
    }

    /* A path that D-Bus cannot carry. */
    a = request(&c, "GET", "/bus/\xff", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 400);
    answer_free(a);
    bus_device_free(d, &app, &c);
}

static void test_memfds(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    uint8_t *body = calloc(1, LIMIT_BUS_INLINE + 1);
    struct stat st;
    answer *a;
    int fd;

    a = request(&c, "POST", "/bus", body, LIMIT_BUS_INLINE + 1, true);
    wait_for(d, app.calls == 1);
    assert_int_equal(app.body_size, 0);
    assert_int_equal(fcntl(app.body_fd, F_GET_SEALS) & (SEALS | F_SEAL_SEAL),
                     F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    assert_true(st_blocks(app.body_fd) > 0);
    assert_int_equal(fstat(app.body_fd, &st), 0);
    assert_int_equal(st.st_size, LIMIT_BUS_INLINE + 1);

    fd = memfd_of(600000);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
    reply_fd(&app, fd);
    wait_for(d, a->size == CHANNEL_CREDIT_INITIAL); /* not more than the credit */
    for (int i = 0; i < 3 && !a->ended; i++) {
        size_t before = a->size;
        endpoint_request_consumed(a->request, CHANNEL_CREDIT_INITIAL);
        wait_for(d, a->ended || a->size == before + CHANNEL_CREDIT_INITIAL);
    }
    wait_for(d, a->ended);
    assert_int_equal(a->size, 600000);
    assert_int_equal(a->aborted, 0);
    /* Whoever keeps the request's body keeps no memory of ours. */
    assert_int_equal(st_blocks(app.body_fd), 0);
    assert_int_equal(d->core->bus_spooled, 0);
    answer_free(a);

    /* One that its sender could still change is not read. */
    a = request(&c, "GET", "/bus", NULL, 0, true);
    wait_for(d, app.calls == 2);
    reply_fd(&app, memfd_of(10));
    wait_for(d, a->ended);
    assert_int_equal(a->status, 502);
    answer_free(a);

    /* Nor is anything that is no memfd. */
    a = request(&c, "GET", "/bus", NULL, 0, true);
    wait_for(d, app.calls == 3);
    reply_fd(&app, open("/dev/zero", O_RDONLY | O_CLOEXEC));
    wait_for(d, a->ended);
    assert_int_equal(a->status, 502);
    answer_free(a);

    /* A body that comes in parts is collected; nothing is called before it is whole. */
    a = request(&c, "POST", "/bus", body, 100, false);
    wait_for(d, a->request->state == REQUEST_OPEN);
    assert_int_equal(endpoint_request_body(a->request, body, 1000, false), 0);
    assert_int_equal(a->taken, 0); /* never from within */
    assert_int_equal(app.calls, 3);
    assert_int_equal(endpoint_request_body(a->request, body, 1000, true), 0);
    wait_for(d, app.calls == 4);
    assert_int_equal(app.body_size, 2100);
    assert_int_equal(d->core->bus_spooled, 0);
    answer_free(a);
    wait_for(d, app.cancels == 1);
    assert_string_equal(app.cancelled, app.id);
    free(body);
    bus_device_free(d, &app, &c);
}

static void test_stream(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *a = request(&c, "GET", "/bus", NULL, 0, true);
    sd_bus_message *m;

    wait_for(d, app.calls == 1);
    assert_true(app.stream >= 0);
    m = reply_begin(&app, 200, "content-type", "text/plain");
    assert_true(sd_bus_message_append(m, "a{sv}", 1, "stream", "b", 1) >= 0);
    reply_send(&app, m);
    wait_for(d, a->replies == 1);
    assert_int_equal(write(app.stream, "piped", 5), 5);
    wait_for(d, a->size == 5);
    assert_false(a->ended);
    /* The core must hold no end of its own that would keep the pipe open. */
    sd_bus_message_unref(TAKE_PTR(app.call));
    app.stream = safe_close(app.stream);
    wait_for(d, a->ended);
    assert_memory_equal(a->body, "piped", 5);
    answer_free(a);
    bus_device_free(d, &app, &c);
}

static void test_watch(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    watcher *w = watch(&c, "/bus/x");

    wait_for(d, app.watches == 1);
    assert_string_equal(app.watched, "/x");
    assert_int_equal(app.watchers, 1);
    side_fields(&d->registrar, CHANNEL_NOTIFY, 0, 0, 0, "v", 1, ":namespace", "/bus", ":path", "/x",
                "content-type", "text/plain", NULL);
    wait_for(d, w->values == 1);
    watcher_free(w);
    wait_for(d, app.watches == 2);
    assert_int_equal(app.watchers, 0);
    bus_device_free(d, &app, &c);
}

/* Turns until all that had been sent before is there: one request more than before. */
static void catch_up(device *d, bus_app *app, client *c)
{
    answer *a = request(c, "GET", "/plain", NULL, 0, true);
    unsigned before = app->calls;

    app->keep = true;
    wait_for(d, app->calls == before + 1);
    answer_one(app, app->n_kept - 1);
    wait_for(d, a->ended);
    answer_free(a);
}

/* An app that does not read: nothing piles up for it, and when it is back it hears how things are. */
static void test_watch_of_a_hung_app(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    watcher *w, *other = NULL;

    app.mute = true;
    w = watch(&c, "/bus/x");
    wait_for(d, app.watches == 1);
    for (unsigned i = 0; i < 100; i++) {
        watcher_free(w);
        catch_up(d, &app, &c);
        w = watch(&c, "/bus/x");
        catch_up(d, &app, &c);
    }
    watcher_free(w);
    other = watch(&c, "/bus/y");
    catch_up(d, &app, &c);
    assert_int_equal(app.watches, 1);
    answer_watch(&app);
    wait_for(d, app.watches == 2);
    assert_string_equal(app.watched, "/x");
    assert_int_equal(app.watchers, 0);
    catch_up(d, &app, &c);
    assert_int_equal(app.watches, 2);
    answer_watch(&app);
    wait_for(d, app.watches == 3);
    assert_string_equal(app.watched, "/y");
    assert_int_equal(app.watchers, 1);
    /* Whoever came and went meanwhile is not spoken of. */
    w = watch(&c, "/bus/z");
    catch_up(d, &app, &c);
    watcher_free(w);
    answer_watch(&app);
    catch_up(d, &app, &c);
    assert_int_equal(app.watches, 3);
    assert_int_equal(d->core->bus_watches, 0);
    watcher_free(other);
    wait_for(d, app.watches == 4);
    bus_device_free(d, &app, &c);
}

/* An error is an answer too. */
static void test_watch_that_fails(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    watcher *w;

    app.mute = true;
    w = watch(&c, "/bus/x");
    wait_for(d, app.watches == 1);
    watcher_free(w);
    catch_up(d, &app, &c);
    app.mute = false;
    assert_true(sd_bus_reply_method_errorf(app.untold[0], SD_BUS_ERROR_UNKNOWN_METHOD, "no") >= 0);
    wait_for(d, app.watches == 2);
    assert_int_equal(app.watchers, 0);
    bus_device_free(d, &app, &c);
}

static void many_apps(device *d, unsigned n, unsigned per_uid)
{
    for (unsigned i = 0; i < n; i++) {
        char ns[16], uid[16], name[16], revision[16];
        snprintf(ns, sizeof(ns), "/hung%u", i);
        snprintf(uid, sizeof(uid), "%u", 50000 + i / per_uid);
        snprintf(name, sizeof(name), ":1.%u", 100 + i);
        snprintf(revision, sizeof(revision), "%u", 10 + i);
        registrar_entry(d, 0, ":revision", revision, ":namespace", ns, ":key", KEY, ":uid", uid, ":road",
                        "bus", ":bus-name", name, ":object", "/app", ":watch", "1", NULL);
        wait_for(d, endpoint_core_has(d->core, ns));
    }
}

/* One of whose apps none reads takes a few places, many such all there are; the bus bears no more. */
static void test_watches_of_many_hung_apps(void **state)
{
    enum { HUNG = 2 * LIMIT_BUS_WATCHES };
    watcher *w[HUNG];

    for (unsigned per_uid = 1; per_uid <= HUNG; per_uid *= HUNG) {
        size_t limit = per_uid == 1 ? LIMIT_BUS_WATCHES : LIMIT_BUS_WATCHES_UID;
        bus_app app;
        client c;
        device *d = bus_device(NULL, &app, &c);

        many_apps(d, HUNG, per_uid);
        app.mute = true;
        for (size_t i = 0; i < HUNG; i++) {
            char path[24];
            snprintf(path, sizeof(path), "/hung%zu/x", i);
            w[i] = watch(&c, path);
        }
        wait_for(d, app.watches >= limit);
        catch_up(d, &app, &c);
        assert_int_equal(app.watches, limit);
        assert_int_equal(d->core->bus_watches, limit);
        if (per_uid > 1) { /* others are told */
            watcher *own = watch(&c, "/bus/x");
            wait_for(d, app.watches == limit + 1);
            answer_watch(&app);
            watcher_free(own);
            wait_for(d, app.watches == limit + 2);
            answer_watch(&app);
        }
        while (app.n_untold > 0) { /* each that answers makes room for one that waits */
            answer_watch(&app);
            catch_up(d, &app, &c);
        }
        assert_int_equal(app.watches, HUNG + (per_uid > 1 ? 2 : 0));
        for (size_t i = 0; i < HUNG; i++)
            watcher_free(w[i]);
        bus_device_free(d, &app, &c); /* with some on their way */
    }
}

/* --- many at once ---------------------------------------------------------------------------- */

#define MANY (LIMIT_BUS_RESPONDER * 4)

static void ask_many(device *d, client *c, const char *path, answer **a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        a[i] = request(c, "GET", path, NULL, 0, true);
        if (i == 0) /* the row is there from now on */
            wait_for(d, a[0]->request->state == REQUEST_OPEN);
    }
}

static size_t ended(answer **a, size_t n, unsigned status)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += a[i]->ended && a[i]->status == status;
    return count;
}

static void answers_free(answer **a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        answer_free(a[i]);
}

/* Much more at once than the bus carries: all are answered, and never more than the limit are with
 * the app. */
static void test_queue(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *a[MANY];

    app.keep = true;
    ask_many(d, &c, "/plain", a, MANY);
    for (size_t answered = 0; answered < MANY; answered++) {
        wait_for(d, app.n_kept > 0);
        assert_true(d->core->bus_open <= LIMIT_BUS_RESPONDER);
        assert_true(app.n_kept <= LIMIT_BUS_RESPONDER);
        answer_kept(&app);
        wait_for(d, ended(a, MANY, 200) == answered + 1);
    }
    assert_int_equal(app.calls, MANY);
    answers_free(a, MANY);
    bus_device_free(d, &app, &c);
}

/* An app that takes requests and answers none keeps its places, and no more than those; whoever
 * waits behind is told to come again, and after the deadline at once. */
static void test_hung(void **state)
{
    endpoint_settings s = {.deadline_usec = LIMIT_BUS_WAIT_USEC + 4000000u};
    bus_app app;
    client c;
    device *d = bus_device(&s, &app, &c);
    answer *a[MANY], *late;

    app.keep = true;
    ask_many(d, &c, "/plain", a, MANY);
    wait_for(d, app.calls == LIMIT_BUS_RESPONDER);
    wait_for(d, ended(a, MANY, 503) == MANY - LIMIT_BUS_RESPONDER);
    wait_for(d, ended(a, MANY, 504) == LIMIT_BUS_RESPONDER);
    wait_for(d, app.cancels == LIMIT_BUS_RESPONDER);
    assert_int_equal(app.calls, LIMIT_BUS_RESPONDER);
    assert_non_null(strstr(a[MANY - 1]->fields, "retry-after"));

    /* The bus still counts them. */
    assert_int_equal(d->core->bus_open, LIMIT_BUS_RESPONDER);
    late = request(&c, "GET", "/plain", NULL, 0, true);
    assert_int_equal(late->status, 503);
    answer_free(late);

    /* Its late answers reach nobody, but free its places. */
    while (app.n_kept > 0)
        answer_kept(&app);
    wait_for(d, d->core->bus_open == 0);
    assert_int_equal(ended(a, MANY, 504), LIMIT_BUS_RESPONDER);
    late = request(&c, "GET", "/plain", NULL, 0, true);
    wait_for(d, app.n_kept == 1);
    answer_kept(&app);
    wait_for(d, late->ended);
    assert_int_equal(late->status, 200);
    answer_free(late);
    answers_free(a, MANY);
    bus_device_free(d, &app, &c);
}

/* Apps under other uids: each may hold half of what the others leave, so that there is always
 * something left for one more. */
static void test_hung_apps_share(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *a[5 * LIMIT_BUS_RESPONDER];
    size_t n = 0, before;

    app.keep = true;
    for (unsigned other = 1; other <= 5; other++) {
        char namespace[16], uid[16];
        before = app.calls;
        snprintf(namespace, sizeof(namespace), "/other%u", other);
        snprintf(uid, sizeof(uid), "%u", 70000 + other);
        registrar_entry(d, 0, ":revision", "1", ":namespace", namespace, ":key", KEY, ":uid", uid,
                        ":road", "bus", ":bus-name", ":1.7", ":object", "/app", NULL);
        wait_for(d, endpoint_core_has(d->core, namespace));
        for (unsigned i = 0; i < LIMIT_BUS_RESPONDER; i++, n++) {
            a[n] = request(&c, "GET", namespace, NULL, 0, true);
            wait_for(d, a[n]->request->state == REQUEST_OPEN);
        }
        wait_for(d, app.calls == d->core->bus_open);
        assert_in_range(app.calls - before, 1, LIMIT_BUS_RESPONDER);
    }
    assert_true(d->core->bus_open < LIMIT_BUS_REQUESTS);
    before = app.calls;
    {
        answer *good = request(&c, "GET", "/bus", NULL, 0, true);
        wait_for(d, app.calls == before + 1);
        answer_last(&app);
        wait_for(d, good->ended);
        assert_int_equal(good->status, 200);
        answer_free(good);
    }
    answers_free(a, n);
    bus_device_free(d, &app, &c);
}

/* A client that never finishes its body holds no place. */
static void test_slow_bodies(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *slow[LIMIT_BUS_REQUESTS], *good;

    for (size_t i = 0; i < ELEMENTS(slow); i++)
        slow[i] = request(&c, "POST", "/bus", "x", 1, false);
    wait_for(d, slow[ELEMENTS(slow) - 1]->request->state == REQUEST_OPEN);
    assert_int_equal(d->core->bus_open, 0);
    good = request(&c, "POST", "/bus", "x", 1, true);
    app.keep = true;
    wait_for(d, app.n_kept == 1);
    answer_kept(&app);
    wait_for(d, good->ended);
    assert_int_equal(good->status, 200);
    answer_free(good);
    answers_free(slow, ELEMENTS(slow));
    bus_device_free(d, &app, &c);
}

/* What all bodies on their way to apps may take; one app gets at most half of it. */
static void test_spool_limit(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    uint8_t *body = calloc(1, CHANNEL_CREDIT_INITIAL);
    answer *a[16] = {request(&c, "POST", "/bus", "x", 1, false)};
    size_t n = 1, taken = 1;

    wait_for(d, a[0]->request->state == REQUEST_OPEN);
    for (; taken <= LIMIT_BUS_SPOOL && !a[n - 1]->ended && n < ELEMENTS(a); n++) {
        a[n] = request(&c, "POST", "/bus", "x", 1, false);
        for (int i = 0; i < 31 && !a[n]->ended; i++)
            if (endpoint_request_body(a[n]->request, body, CHANNEL_CREDIT_INITIAL, false) == 0 &&
                !a[n]->ended)
                taken += CHANNEL_CREDIT_INITIAL;
    }
    assert_int_equal(a[n - 1]->status, 503);
    assert_in_range(taken, LIMIT_BUS_SPOOL / 4, LIMIT_BUS_SPOOL / 2);
    answers_free(a, n);
    assert_int_equal(d->core->bus_spooled, 0);
    free(body);
    bus_device_free(d, &app, &c);
}

/* The bus stops reading from whoever has 64 descriptors on their way: pipes of an app that streams
 * count too. */
static void test_descriptors_limit(void **state)
{
    bus_app app;
    client c;
    device *d = bus_device(NULL, &app, &c);
    answer *a[LIMIT_BUS_RESPONDER];

    app.keep = true;
    ask_many(d, &c, "/bus", a, ELEMENTS(a));
    wait_for(d, app.calls == LIMIT_BUS_FDS / 2);
    assert_int_equal(d->core->bus_fds, LIMIT_BUS_FDS / 2);
    for (size_t i = 0; i < ELEMENTS(a); i++) {
        wait_for(d, app.n_kept > 0);
        answer_kept(&app);
    }
    wait_for(d, ended(a, ELEMENTS(a), 200) == ELEMENTS(a));
    assert_int_equal(d->core->bus_fds, 0);
    answers_free(a, ELEMENTS(a));
    bus_device_free(d, &app, &c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inline),          cmocka_unit_test(test_memfds),
        cmocka_unit_test(test_stream),          cmocka_unit_test(test_watch),
        cmocka_unit_test(test_watch_of_a_hung_app),
        cmocka_unit_test(test_watch_that_fails),
        cmocka_unit_test(test_watches_of_many_hung_apps),
        cmocka_unit_test(test_queue),           cmocka_unit_test(test_hung),
        cmocka_unit_test(test_hung_apps_share), cmocka_unit_test(test_slow_bodies),
        cmocka_unit_test(test_spool_limit),     cmocka_unit_test(test_descriptors_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
