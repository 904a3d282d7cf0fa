/* SPDX-License-Identifier: Apache-2.0 */
#include "connections.h"

#include <hybus/credentials.h>

#include "words.h"

typedef struct Asked {
    struct Connections *list;
    sd_bus_slot *slot;
} Asked;

struct Connections {
    sd_bus *bus;
    sd_bus_slot *names_slot;
    char **names; /* that have not been asked for yet, from `next` on */
    size_t n_names, next, n_asked, more;
    Asked asked[CONNECTIONS_AT_ONCE];
    Subject *subjects;
    size_t n_subjects;
    ConnectionsListed f;
    void *userdata;
};

void connections_free(Connections *c)
{
    if (!c)
        return;
    sd_bus_slot_unref(c->names_slot);
    for (size_t i = 0; i < CONNECTIONS_AT_ONCE; i++)
        sd_bus_slot_unref(c->asked[i].slot);
    for (size_t i = 0; i < c->n_subjects; i++)
        free((uint32_t *)c->subjects[i].gids);
    free(c->subjects);
    words_free(c->names);
    sd_bus_unref(c->bus);
    free(c);
}

static bool is_known(const Connections *c, const hybus_credentials *k)
{
    for (size_t i = 0; i < c->n_subjects; i++) {
        const Subject *s = &c->subjects[i];

        if (s->uid == k->uid && s->n_gids == k->n_gids &&
            (k->n_gids == 0 || memcmp(s->gids, k->gids, k->n_gids * sizeof *s->gids) == 0))
            return true;
    }
    return false;
}

static int add_subject(Connections *c, const hybus_credentials *k)
{
    uint32_t *gids = calloc(k->n_gids + 1, sizeof *gids);

    if (!gids)
        return -ENOMEM;
    if (k->n_gids > 0)
        memcpy(gids, k->gids, k->n_gids * sizeof *gids);
    c->subjects[c->n_subjects++] = (Subject){.uid = k->uid, .gids = gids, .n_gids = k->n_gids};
    return 0;
}

static int ask_more(Connections *c);

/* Who has left meanwhile is no longer connected. */
static void on_credentials(sd_bus_message *reply, int error, void *userdata)
{
    Asked *a = userdata;
    Connections *c = a->list;
    hybus_credentials k;
    int r = 0;

    a->slot = sd_bus_slot_unref(a->slot);
    c->n_asked--;
    if (error == 0 && hybus_credentials_read(reply, &k) == 0 && !is_known(c, &k))
        r = add_subject(c, &k);
    if (r >= 0)
        r = ask_more(c);
    if (r != 0)
        c->f(c, r < 0 ? r : 0, c->userdata);
}

/* 1: there is nobody left to ask about, and nobody is being asked about. */
static int ask_more(Connections *c)
{
    for (size_t i = 0; i < CONNECTIONS_AT_ONCE && c->next < c->n_names; i++) {
        Asked *a = &c->asked[i];
        int r;

        if (a->slot)
            continue;
        a->list = c;
        r = hybus_credentials_ask(c->bus, c->names[c->next++], on_credentials, a, &a->slot);
        if (r < 0)
            return r;
        c->n_asked++;
    }
    return c->n_asked == 0;
}

static int read_names(Connections *c, sd_bus_message *reply)
{
    const char *name;
    int r = sd_bus_message_enter_container(reply, 'a', "s");

    while (r >= 0 && (r = sd_bus_message_read(reply, "s", &name)) > 0) {
        if (*name != ':')
            continue;
        if (c->n_names >= CONNECTIONS_MAX) {
            c->more++;
            continue;
        }
        r = words_add(&c->names, name, strlen(name));
        c->n_names += r >= 0;
    }
    if (r < 0)
        return r;
    c->subjects = calloc(c->n_names + 1, sizeof *c->subjects);
    return c->subjects ? 0 : -ENOMEM;
}

static void on_names(sd_bus_message *reply, int error, void *userdata)
{
    Connections *c = userdata;
    int r = error;

    c->names_slot = sd_bus_slot_unref(c->names_slot);
    if (r >= 0)
        r = read_names(c, reply);
    if (r >= 0)
        r = ask_more(c);
    if (r != 0)
        c->f(c, r < 0 ? r : 0, c->userdata);
}

int connections_list(sd_bus *bus, ConnectionsListed f, void *userdata, Connections **ret)
{
    Connections *c = calloc(1, sizeof *c);
    int r;

    if (!c)
        return -ENOMEM;
    c->bus = sd_bus_ref(bus);
    c->f = f;
    c->userdata = userdata;
    r = hybus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                          "org.freedesktop.DBus", "ListNames", on_names, c, &c->names_slot, "");
    if (r < 0) {
        connections_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

size_t connections_subjects(const Connections *c, const Subject **ret, size_t *ret_more)
{
    *ret = c->subjects;
    *ret_more = c->more;
    return c->n_subjects;
}
