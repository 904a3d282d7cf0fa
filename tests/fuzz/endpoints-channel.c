/* SPDX-License-Identifier: Apache-2.0 */

/* What a peer may send to h-endpointd's channel socket. The first byte says who it is (an app, a
 * server, or somebody before HELLO) and how the policy agent behaves meanwhile; the rest is what it
 * says. Whatever it is: another user's registration stands, servers are told only what can be read,
 * and with the connection all that it had is gone. */

#include <assert.h>
#include <sys/socket.h>

#include <channel.h>

#include "fake-agent.h"
#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    WHO = 3,        /* bits: an app, a server, nobody yet */
    SLOW = 4,       /* answers come after all has been said */
    REVOKE = 8,     /* its permissions go in between */
    AWAY = 16,      /* the agent has gone by then */
    STALE = 32,     /* answers are overtaken */
    OTHER_UID = 64, /* it is who holds /held */
};

static world *w;
static client server, holder;

static void start(void)
{
    endpoints_spec s = {.uid = APP, .road = ENDPOINTS_START};
    void *state;

    assert(world_setup(&state) == 0);
    w = state;
    registrar_unpaced(w->registrar); /* all inputs are of the same few uids */
    fake_agent_grant(OTHER, "endpoint.register:/held");
    fake_agent_grant(COAPD, "endpoint.serve");
    assert(endpoints_spec_set_namespace(&s, "/start", 6) == 0);
    assert(endpoints_spec_set_unit(&s, "start.service", 13) == 0);
    assert(registrar_set_manifests(w->registrar, &s, 1) == 0);
    app_connect(w, &holder, OTHER);
    client_register_ok(w, &holder, 1, "/held");
    (void)server_connect(w, &server);
}

/* Everything that the server is told makes sense. */
static void server_reads(void)
{
    while (client_next(w, &server)) {
        endpoints_spec s;
        assert(server.frame.type == CHANNEL_ENTRY);
        if (server.frame.flags & CHANNEL_GONE)
            continue;
        assert(endpoints_entry_parse(&server.frame, &s) == 0);
        endpoints_spec_done(&s);
    }
}

static void set_permissions(bool granted)
{
    void (*f)(uint32_t, const char *) = granted ? fake_agent_grant : fake_agent_revoke;

    f(APP, "endpoint.register:/thermo");
    f(APP, "endpoint.register:/a");
    f(APP, "endpoint.register:/system/x");
    f(APP, "endpoint.nest:/system/x");
    f(APP, "endpoint.register:/held/below");
}

static void speak(client *c, uint8_t mode, const uint8_t *data, size_t size)
{
    uint32_t uid = mode & OTHER_UID ? OTHER : (mode & WHO) == 1 ? COAPD : APP;

    client_connect(w, c, uid);
    if ((mode & WHO) < 2)
        client_hello(c, mode & WHO ? "server" : "app", "coapd");
    w->silent = mode & SLOW;
    fake_agent_stale(mode & STALE ? 2 : 0);
    client_flush(w, c);
    for (size_t at = 0; at < size;) { /* as much as there is room for */
        ssize_t n = send(c->fd, data + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        world_settle(w);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const endpoints_entry *e;
    client c;

    if (size < 1 || size > 65536)
        return 0;
    if (!w)
        start();
    set_permissions(true);
    speak(&c, data[0], data + 1, size - 1);
    fake_agent_away(data[0] & AWAY);
    w->silent = false;
    world_settle(w);
    if (data[0] & REVOKE) {
        set_permissions(false);
        fake_agent_change();
        world_settle(w);
    }
    fake_agent_away(false);
    server_reads();
    client_close(&c);
    world_settle(w);
    server_reads();
    set_permissions(false);

    e = endpoints_find(registrar_table(w->registrar), "/held");
    while (client_next(w, &holder)) /* servers come and go */
        ;
    if (data[0] & OTHER_UID) { /* it may have taken its own place, and left it */
        if (!e)
            client_register_ok(w, &holder, 1, "/held");
    } else
        assert(e && e->spec.uid == OTHER);
    assert(!endpoints_registration_at(registrar_table(w->registrar), 1));
    assert(fake_agent_waiting() == 0);
    return 0;
}
