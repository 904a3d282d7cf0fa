/* SPDX-License-Identifier: Apache-2.0 */

/* The conformance app in C: app NAMESPACE [--takeover]; see ../README.md. */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hybridos.h>

static hybridos_app *app;
static hybridos_request *later;
static unsigned cancelled;
static struct {
    char path[64];
    unsigned watchers;
} watches[16];

struct stream {
    size_t at, size;
};

static void fill(unsigned char *data, size_t start, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)((start + i) % 251);
}

static void reply_text(hybridos_request *r, unsigned status, const char *text)
{
    if (hybridos_reply(r, status, "text/plain", text, strlen(text)) < 0)
        hybridos_abort(r);
}

static void stream_on(hybridos_request *r, void *userdata)
{
    struct stream *s = hybridos_request_userdata(r);
    unsigned char data[10000];

    while (s->at < s->size) {
        size_t n = s->size - s->at < sizeof(data) ? s->size - s->at : sizeof(data);
        fill(data, s->at, n);
        ssize_t taken = hybridos_write(r, data, n);
        if (taken < 0)
            abort();
        s->at += (size_t)taken;
        if ((size_t)taken < n)
            return;
    }
    free(s);
    hybridos_end(r);
}

static void begin_stream(hybridos_request *r, size_t size)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (!s)
        abort();
    s->size = size;
    hybridos_request_set_userdata(r, s);
    hybridos_begin(r, 200, "application/octet-stream");
    stream_on(r, NULL);
}

static void reply_large(hybridos_request *r, size_t size)
{
    unsigned char *data = malloc(size + 1);
    if (!data)
        abort();
    fill(data, 0, size);
    hybridos_reply(r, 200, "application/octet-stream", data, size);
    free(data);
}

static void echo(hybridos_request *r)
{
    size_t size;
    const void *body = hybridos_request_body(r, &size);
    const char *test = hybridos_request_field(r, "x-test");
    char handle[24];
    snprintf(handle, sizeof(handle), "%" PRIu64, hybridos_request_handle(r));
    hybridos_header(r, "X-Method", hybridos_request_method(r));
    hybridos_header(r, "x-query", hybridos_request_query(r));
    hybridos_header(r, "x-principal", hybridos_request_principal(r));
    hybridos_header(r, "x-handle", handle);
    hybridos_header(r, "x-test", test ? test : "");
    hybridos_reply(r, 200, "application/octet-stream", body, size);
}

static void list_watches(hybridos_request *r)
{
    char text[2048] = "";
    size_t n = 0;
    for (size_t i = 0; i < 16 && watches[i].path[0]; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s %u\n", watches[i].path,
                              watches[i].watchers);
    reply_text(r, 200, text);
}

static hybridos_endpoint *whole;

static void on_request(hybridos_request *r, void *userdata)
{
    const char *path = hybridos_request_subpath(r) + 1;
    size_t size;

    if (strcmp(path, "echo") == 0) {
        echo(r);
    } else if (strncmp(path, "status/", 7) == 0) {
        hybridos_reply(r, (unsigned)atoi(path + 7), NULL, NULL, 0);
    } else if (strncmp(path, "large/", 6) == 0) {
        reply_large(r, (size_t)atol(path + 6));
    } else if (strncmp(path, "stream/", 7) == 0) {
        begin_stream(r, (size_t)atol(path + 7));
    } else if (strcmp(path, "later") == 0) {
        later = r;
    } else if (strcmp(path, "release") == 0 && later) {
        reply_text(later, 200, "later");
        later = NULL;
        reply_text(r, 200, "released");
    } else if (strcmp(path, "never") == 0) {
        return;
    } else if (strcmp(path, "cancelled") == 0) {
        char text[16];
        snprintf(text, sizeof(text), "%u", cancelled);
        reply_text(r, 200, text);
    } else if (strcmp(path, "fail") == 0) {
        hybridos_abort(r);
    } else if (strcmp(path, "notify") == 0) {
        const void *body = hybridos_request_body(r, &size);
        hybridos_notify(whole, "/value", "text/plain", "v1", 7, body, size);
        hybridos_reply(r, 204, NULL, NULL, 0);
    } else if (strcmp(path, "watches") == 0) {
        list_watches(r);
    } else {
        reply_text(r, 404, "no such case");
    }
}

static void on_cancel(hybridos_request *r, unsigned status, void *userdata)
{
    /* Too late for any answer; whoever tries all the same is told so. */
    if (hybridos_header(r, "a", "b") != -ECANCELED ||
        hybridos_reply(r, 200, NULL, NULL, 0) != -ECANCELED ||
        hybridos_begin(r, 200, NULL) != -ECANCELED || hybridos_write(r, "x", 1) != -ECANCELED ||
        hybridos_end(r) != -ECANCELED || hybridos_process(app) != -EBUSY)
        abort();
    hybridos_request_consumed(r, 1);
    hybridos_abort(r);
    if (strcmp(hybridos_request_subpath(r), "/never") == 0)
        cancelled++;
    free(hybridos_request_userdata(r));
}

static void on_watch(hybridos_endpoint *e, const char *path, unsigned watchers, void *userdata)
{
    for (size_t i = 0; i < 16; i++)
        if (!watches[i].path[0] || strcmp(watches[i].path, path) == 0) {
            snprintf(watches[i].path, sizeof(watches[i].path), "%s", path);
            watches[i].watchers = watchers;
            return;
        }
}

/* The values v1 to v3 are remembered; whoever had another is given the last one. */
static void on_resume(hybridos_endpoint *e, const char *path, const char *id, void *userdata)
{
    char next[8], body[32];
    int n = id[0] == 'v' ? atoi(id + 1) : 0;

    if (strcmp(path, "/value") != 0 || n == 3)
        return;
    snprintf(next, sizeof(next), "v%d", n > 0 && n < 3 ? n + 1 : 3);
    snprintf(body, sizeof(body), "value %s", next);
    if (hybridos_resume(e, "text/plain", next, n < 1 || n > 3, body, strlen(body)) < 0 ||
        hybridos_resume(e, "text/plain", next, false, body, 1) != -EINVAL)
        abort();
}

static void on_state(hybridos_endpoint *e, unsigned status, const char *reason, void *userdata)
{
    printf("state %u %s\n", status, reason);
    fflush(stdout);
}

/* Of the second endpoint: its fate is that of the first. */
static void on_other_state(hybridos_endpoint *e, unsigned status, const char *reason,
                           void *userdata)
{
}

static void on_pieces(hybridos_request *r, void *userdata)
{
    size_t *total = calloc(1, sizeof(*total));
    if (!total)
        abort();
    hybridos_request_set_userdata(r, total);
}

static void on_body(hybridos_request *r, const void *data, size_t size, bool end, void *userdata)
{
    size_t *total = hybridos_request_userdata(r);
    if (strcmp(hybridos_request_subpath(r), "/hold") == 0)
        return;
    *total += size;
    hybridos_request_consumed(r, size);
    if (!end)
        return;
    char text[32];
    snprintf(text, sizeof(text), "%zu", *total);
    free(total);
    reply_text(r, 200, text);
}

static void on_signal(int signal_number)
{
    hybridos_stop(app);
}

int main(int argc, char *argv[])
{
    char other[256];
    hybridos_endpoint *pieces;

    if (argc < 2 || hybridos_app_new("conformance", NULL, &app) < 0)
        return EXIT_FAILURE;
    snprintf(other, sizeof(other), "%s-pieces", argv[1]);
    if (hybridos_register(app, argv[1], on_request, NULL, &whole) < 0 ||
        hybridos_register(app, other, on_pieces, NULL, &pieces) < 0)
        return EXIT_FAILURE;
    if (argc > 2 && strcmp(argv[2], "--takeover") == 0) {
        hybridos_endpoint_takeover(whole);
        hybridos_endpoint_takeover(pieces);
    }
    hybridos_endpoint_title(whole, "conformance");
    hybridos_endpoint_attributes(whole, "rt=\"test\";ct=50");
    hybridos_endpoint_rule(whole, "GET /public endpoint.public");
    hybridos_on_state(whole, on_state);
    hybridos_on_state(pieces, on_other_state);
    hybridos_on_cancel(whole, on_cancel);
    hybridos_on_writable(whole, stream_on);
    hybridos_on_watch(whole, on_watch);
    hybridos_on_resume(whole, on_resume);
    hybridos_on_body(pieces, on_body);
    hybridos_on_cancel(pieces, on_cancel);
    signal(SIGTERM, on_signal);
    int r = hybridos_run(app);
    hybridos_app_free(app);
    if (r >= 0)
        puts("stopped");
    return r < 0;
}
