/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/socket.h>

#include "device.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static device *d;
static client c;

static void registrar_says(const uint8_t *data, size_t size)
{
    char namespace[CHANNEL_NAMESPACE_MAX + 1];
    entry_definition definition;
    uint64_t revision;
    hybus_frame f;

    if (hybus_frame_parse(data, size, &f) > 0 &&
        registrar_parse_entry(&d->core->table, &f, namespace, &definition, &revision) >= 0)
        entry_definition_done(&d->core->table, &definition);
}

/* The first byte chooses who speaks. An app speaks with one request open (stream 1), one streamed (stream 3),
 * a watcher, and one that comes back (token 1), so that answers, bodies and values are reached. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    answer *a, *b;
    watcher *w, *back;
    side *app;
    hybus_frame f;

    if (!d) {
        d = device_new(NULL, NULL);
        agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
        registrar_channel(d, "/f", "0123456789abcdef");
        client_new(d, &c, NULL);
    }
    if (size == 0 || size > 65536)
        return 0;
    if (data[0] == 'r') {
        registrar_says(data + 1, size - 1);
        return 0;
    }
    app = app_attached_resuming(d, "/f", "0123456789abcdef");
    w = watch(&c, "/f");
    d->core->resume_token = 0;
    back = watch_again(&c, "/f", "v1");
    a = request(&c, "GET", "/f", NULL, 0, true);
    b = request(&c, "POST", "/f", "body", 4, true);
    side_wait(d, app, CHANNEL_REQUEST);
    side_wait(d, app, CHANNEL_REQUEST);
    side_send(app, CHANNEL_RESPONSE, 0, 200, 3, 0, NULL, 0);
    (void)send(app->fd, data + 1, size - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(app->fd, SHUT_WR);
    while (!app->closed)
        if (!side_poll(app, &f))
            device_turn(d);
    answer_free(a);
    answer_free(b);
    watcher_free(w);
    watcher_free(back);
    app_free(app);
    return 0;
}
