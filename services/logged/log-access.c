/* SPDX-License-Identifier: Apache-2.0 */
#include "log-access.h"

#include <hybus/credentials.h>

#define TRIES_MAX 5u /* the policy may move while it is asked */

static const char *const permissions[] = {"log.read-own", "log.read", "log.audit", "log.secrets"};

struct log_access {
    sd_bus *bus;
    hybus_agent *agent;
    char *name;
    uint32_t uid, *gids;
    size_t n_gids;
    bool known;
    log_rights rights;
    unsigned tries;
    sd_bus_slot *slot;
    hybus_agent_question *question;
    log_access_callback callback;
    void *userdata;
};

static int ask_row(log_access *a);

static void on_row(hybus_row *taken, int error, void *userdata)
{
    _cleanup_(freep) hybus_row *row = taken;
    log_access *a = userdata;

    a->question = NULL;
    a->rights = (log_rights){};
    if (error >= 0 && !hybus_agent_row_current(a->agent, row)) {
        error = ++a->tries < TRIES_MAX ? ask_row(a) : -EAGAIN;
        if (error >= 0)
            return;
    }
    if (error >= 0)
        a->rights = (log_rights){
            .own = hybus_row_bit(row, 0),
            .all = hybus_row_bit(row, 1),
            .audit = hybus_row_bit(row, 2),
            .secrets = hybus_row_bit(row, 3),
        };
    a->callback(a, MIN_OF(error, 0), a->userdata);
}

static int ask_row(log_access *a)
{
    hybus_subject subject = log_access_subject(a);

    return hybus_agent_row(a->agent, &subject, permissions, ELEMENTS(permissions), on_row, a,
                           &a->question);
}

static int keep(log_access *a, const hybus_credentials *c)
{
    a->gids = malloc(MAX_OF(c->n_gids, (size_t)1) * sizeof(*a->gids));
    if (!a->gids)
        return -ENOMEM;
    if (c->n_gids > 0)
        memcpy(a->gids, c->gids, c->n_gids * sizeof(*a->gids));
    a->n_gids = c->n_gids;
    a->uid = c->uid;
    a->known = true;
    return 0;
}

static void on_credentials(sd_bus_message *reply, int error, void *userdata)
{
    log_access *a = userdata;
    hybus_credentials c;

    a->slot = sd_bus_slot_unref(a->slot);
    if (error >= 0)
        error = hybus_credentials_read(reply, &c);
    if (error >= 0)
        error = keep(a, &c);
    if (error >= 0)
        error = ask_row(a);
    if (error < 0)
        a->callback(a, error == -ENOMEM || error == -ENOBUFS ? error : -EACCES, a->userdata);
}

int log_access_new(sd_bus *bus, hybus_agent *agent, const char *name, log_access_callback f,
                   void *userdata, log_access **ret)
{
    _cleanup_(log_access_freep) log_access *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return -ENOMEM;
    a->bus = bus;
    a->agent = agent;
    a->callback = f;
    a->userdata = userdata;
    a->name = strdup(name);
    if (!a->name)
        return -ENOMEM;
    r = hybus_credentials_ask(bus, name, on_credentials, a, &a->slot);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(a);
    return 0;
}

int log_access_again(log_access *a, log_access_callback f, void *userdata)
{
    hybus_agent_question_cancel(TAKE_PTR(a->question));
    a->callback = f;
    a->userdata = userdata;
    a->tries = 0;
    return a->known ? ask_row(a) : -EBUSY;
}

void log_access_free(log_access *a)
{
    if (!a)
        return;
    sd_bus_slot_unref(a->slot);
    hybus_agent_question_cancel(a->question);
    free(a->gids);
    free(a->name);
    free(a);
}

const log_rights *log_access_rights(const log_access *a)
{
    return &a->rights;
}

uint32_t log_access_uid(const log_access *a)
{
    return a->uid;
}

hybus_subject log_access_subject(const log_access *a)
{
    return (hybus_subject){
        .uid = a->uid, .gids = a->gids, .n_gids = a->n_gids, .bus_name = a->name};
}
