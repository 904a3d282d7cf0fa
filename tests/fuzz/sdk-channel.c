/* SPDX-License-Identifier: Apache-2.0 */

/* What a registrar and a server may send to libhybridos. The first byte of the input chooses who
 * speaks; the rest is what it says after its HELLO. The app answers, streams and notifies
 * meanwhile. */

#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

static void on_request(hybridos_request *r, void *userdata)
{
    size_t size;
    hybridos_request_body(r, &size);
    const char *path = hybridos_request_subpath(r);
    if (hybridos_request_handle(r) > CHANNEL_HANDLE_MAX)
        abort();
    if (path[1] == 's' && hybridos_begin(r, 200, "text/plain") == 0)
        hybridos_write(r, path, 2);
    else if (path[1] == 'a')
        hybridos_abort(r);
    else if (path[1] != 'l') /* later */
        hybridos_reply(r, 200, NULL, path, strlen(path));
}

static void on_body(hybridos_request *r, const void *data, size_t size, bool end, void *userdata)
{
    hybridos_request_consumed(r, size);
    if (end && hybridos_request_subpath(r)[1] != 'l')
        hybridos_abort(r);
}

static void on_watch(hybridos_endpoint *e, const char *path, unsigned watchers, void *userdata)
{
    if (watchers > 0)
        hybridos_notify(e, path, "text/plain", "1", 3, path, 1);
    else
        hybridos_unregister(e);
}

static void on_resume(hybridos_endpoint *e, const char *path, const char *id, void *userdata)
{
    if (id[0] != '0')
        hybridos_resume(e, NULL, id, path[1], path, strlen(path));
}

/* As if the socket had just connected. */
static int open_connection(struct connection *c)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        abort();
    c->fd = pair[0];
    c->hello = true;
    return pair[1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hybridos_app *app;
    hybridos_endpoint *whole, *pieces;

    if (size < 1 || size > 128 * 1024)
        return 0;
    if (hybridos_app_new("fuzz", "/nonexistent/registrar", &app) < 0 ||
        hybridos_register(app, "/a", on_request, NULL, &whole) < 0 ||
        hybridos_register(app, "/b", on_request, NULL, &pieces) < 0)
        abort();
    hybridos_on_body(pieces, on_body);
    hybridos_on_watch(whole, on_watch);
    hybridos_on_resume(whole, on_resume);

    struct connection *server = connection_new(app, ROLE_SERVER, "h-httpd", "/nonexistent/server");
    server->next = app->servers;
    app->servers = server;
    app->n_servers++;
    int registrar_fd = open_connection(app->registrar), server_fd = open_connection(server);
    app->in_turn = true;
    strcpy(whole->key, "1");
    strcpy(pieces->key, "2");
    registrar_turn(app, now_usec());
    server_turn(server, now_usec());
    for (struct attachment *a = server->attachments; a; a = a->next)
        a->state = ATTACHMENT_UP;

    struct connection *c = data[0] & 1 ? app->registrar : server;
    int fd = data[0] & 1 ? registrar_fd : server_fd;
    ssize_t n = write(fd, data + 1, size - 1);
    if (n > 0)
        connection_read(c);
    if (c->fd >= 0)
        connection_read(c);
    app->in_turn = false;
    hybridos_process(app);
    close(registrar_fd);
    close(server_fd);
    hybridos_process(app);
    hybridos_app_free(app);
    return 0;
}
