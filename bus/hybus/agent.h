/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The client of h-securityd's private socket (docs/protocols/agent.md). One connection per daemon,
 * asynchronous only, reconnecting by itself; every callback is called exactly once. When the agent
 * is away, questions wait for it up to their deadline and are then answered with -ENOKEY. Callbacks
 * come from the loop, never from inside a question, and must not free the agent. */

#include <systemd/sd-event.h>

#include "base.h"
#include "page.h"

#define HYBUS_AGENT_SOCKET "/run/hybridos/security/agent.sock"
#define HYBUS_AGENT_PACKET_MAX (64u * 1024u) /* bytes of one packet, either way */
#define HYBUS_AGENT_PERMISSIONS_MAX 512u     /* permissions in one question */
#define HYBUS_AGENT_PENDING_MAX 1024u        /* questions in flight; more give -ENOBUFS */
#define HYBUS_AGENT_DEADLINE_USEC (5u * 1000u * 1000u)
#define HYBUS_AGENT_WAIT_MAX_USEC (300u * 1000u * 1000u) /* as long as a person may be asked */
#define HYBUS_AGENT_ARGUMENTS_MAX (16u * 1024u) /* bytes of JSON; longer ones stay unknown */

typedef struct hybus_agent hybus_agent;
typedef struct hybus_agent_question hybus_agent_question;

/* Whom a decision is about. Either a local caller (uid and all groups, as attested by the bus or by
 * SO_PEERCRED/SO_PEERGROUPS, and for bus callers the unique name so that a bound connection is
 * recognised), or a remote principal by handle (0: anonymous). */
typedef struct hybus_subject {
    bool unknown; /* bus_name, whose credentials the bus does not attest: holds nothing */
    bool remote;
    uint64_t handle; /* remote: from hybus_agent_check_connection() */
    uint32_t uid;
    const uint32_t *gids;
    size_t n_gids;
    const char *bus_name; /* may be NULL */
} hybus_subject;

/* One row: what a subject may do, as bits over the asked permissions. Immutable; valid while the
 * page is alive, of the same epoch, and `slot` still at `stamp`. */
typedef struct hybus_row {
    uint64_t epoch, stamp;
    uint32_t slot;
    uint32_t n_bits;
    uint64_t bits[];
} hybus_row;

static inline bool hybus_row_bit(const hybus_row *row, uint32_t bit)
{
    return bit < row->n_bits && (row->bits[bit / 64] >> (bit % 64) & 1);
}

/* Is this row still the word of a living agent? No system call. */
HYBUS_EXPORT bool hybus_agent_row_current(hybus_agent *a, const hybus_row *row);

/* One annotated member as h-securityd read it from the interface XML. */
typedef enum hybus_member_kind {
    HYBUS_MEMBER_METHOD = 'm',
    HYBUS_MEMBER_GET = 'g', /* property read */
    HYBUS_MEMBER_SET = 's', /* property write */
    HYBUS_MEMBER_SIGNAL = 'e',
} hybus_member_kind;

typedef struct hybus_member {
    const char *interface, *member;
    hybus_member_kind kind;
    uint32_t permission; /* bit in the service's row; UINT32_MAX: nobody may */
} hybus_member;

/* `service` is the component, `interfaces` what it publishes (NULL-terminated). `socket_path` NULL:
 * HYBUS_AGENT_SOCKET. Does not wait for the agent. */
HYBUS_EXPORT int hybus_agent_new(sd_event *event, const char *service,
                                 const char *const *interfaces, const char *socket_path,
                                 hybus_agent **ret);
HYBUS_EXPORT void hybus_agent_free(hybus_agent *a);
HYBUS_DEFINE_CLEANUP(hybus_agent, hybus_agent_free)

/* True when the page is mapped and the agent lives. No system call. */
HYBUS_EXPORT bool hybus_agent_alive(hybus_agent *a);

/* The members of the service, from the last hello; changes only inside the `changed` callback. */
HYBUS_EXPORT size_t hybus_agent_members(hybus_agent *a, const hybus_member **ret);
HYBUS_EXPORT size_t hybus_agent_permissions(hybus_agent *a, const char *const **ret);

/* Called whenever the policy generation moved or a new agent was attached, so that streams,
 * sessions and subscriptions are judged again. The agent's revoke waits for hybus_agent_settled()
 * with this generation (at most two seconds): call it when everything no longer allowed is cut. */
typedef void (*hybus_agent_changed)(hybus_agent *a, uint64_t generation, void *userdata);
HYBUS_EXPORT int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata);
HYBUS_EXPORT void hybus_agent_remove_changed(hybus_agent *a, hybus_agent_changed f, void *userdata);
HYBUS_EXPORT void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata,
                                      uint64_t generation);

/* Asks for a row. `permissions` NULL: the service's own list. The row is owned by the callee of the
 * callback (free()). error: -ENOKEY agent away, -ENOBUFS too many questions. */
typedef void (*hybus_row_callback)(hybus_row *row, int error, void *userdata);
HYBUS_EXPORT int hybus_agent_row(hybus_agent *a, const hybus_subject *subject,
                                 const char *const *permissions, size_t n_permissions,
                                 hybus_row_callback f, void *userdata, hybus_agent_question **ret);

/* A refusal is judged and recorded by the agent itself, so that it carries rule and audit id. */
typedef struct hybus_call {
    const char *permission; /* NULL when the member has none */
    const char *interface, *member, *path;
    hybus_member_kind kind;
    bool single; /* it can be let through by itself: then rates, arguments and consent are judged
                    too */
    bool has_arguments;    /* they can be had: the verdict may ask for them */
    const char *arguments; /* a JSON array, once they were asked for; NULL: not known */
} hybus_call;

/* Good for one call as long as hybus_agent_pass_current() says so. */
typedef struct hybus_pass {
    uint64_t epoch, stamp;
    uint32_t slot;
} hybus_pass;

HYBUS_EXPORT bool hybus_agent_pass_current(hybus_agent *a, const hybus_pass *pass);

typedef struct hybus_verdict {
    bool allowed;         /* the policy has moved meanwhile: decide again from scratch; or, if */
    bool once;            /* is set too, this very call may pass, and no other */
    hybus_pass pass;      /* of such a one */
    bool wants_arguments; /* not decided: ask again with them, */
    uint64_t hide;        /* bit i: of argument i only its length, {"secret": n} */
    const char *audit;    /* "a1b2-42" */
    const char *rule;     /* "operators-read-log", or "default" */
    const char *reason;
} hybus_verdict;

typedef void (*hybus_verdict_callback)(const hybus_verdict *v, int error, void *userdata);
HYBUS_EXPORT int hybus_agent_judge(hybus_agent *a, const hybus_subject *subject,
                                   const hybus_call *call, hybus_verdict_callback f, void *userdata,
                                   hybus_agent_question **ret);

/* Tells the agent that a permission was used, once per row and permission and then as counts.
 * One way, may be dropped under load (the drop is counted). */
HYBUS_EXPORT void hybus_agent_used(hybus_agent *a, const hybus_subject *subject,
                                   const char *permission, uint64_t count);

/* Tells the agent of `count` calls that were refused without a judgement: "limit" (too many of them
 * waited) or "identity" (the caller left before it was known). `audit`: the id that the callers
 * were told, for the record; the same again adds to it. audit, interface and member may be NULL.
 * One way; false: it was not told, and the count should be told later. */
HYBUS_EXPORT bool hybus_agent_unjudged(hybus_agent *a, const hybus_subject *subject,
                                       const char *reason, const char *audit, const char *interface,
                                       const char *member, uint64_t count);

/* A message that the bus itself refused to carry, as its log tells. */
typedef struct hybus_refusal {
    char type;    /* 'm' a call, 'e' a signal, 'r' an answer or error */
    bool receive; /* refused on the receiver's side */
    const char *destination, *interface, *member, *path; /* NULL: not known */
} hybus_refusal;

/* Tells the agent of `count` such messages, for the audit. `subject`: who sent them, by uid and
 * unique name, or unknown. One way; false: it was not told, and should be told later. */
HYBUS_EXPORT bool hybus_agent_bus_refused(hybus_agent *a, const hybus_subject *subject,
                                          const hybus_refusal *refusal, uint64_t count);

/* CheckConnection: a connect request from outside. Strings may be NULL when unknown. */
typedef struct hybus_connection {
    const char *protocol;    /* "http", "ws", "coap", "mqtt" */
    const char *peer;        /* "192.0.2.7:4711", "[2001:db8::1]:4711" */
    const char *local;       /* address the peer connected to */
    const char *tls;         /* "TLSv1.3 TLS_AES_128_GCM_SHA256", NULL: not encrypted */
    const char *cert_sha256; /* of a verified client certificate, hexadecimal */
    const char *bearer;      /* RFC 6750 token; wiped from the packet after sending */
    const char *node;        /* whose key the peer has shown to have, and which key that was */
    const char *node_key;    /* (docs/protocols/agent.md: psk) */
} hybus_connection;

typedef struct hybus_principal {
    uint64_t handle;       /* bound to this connection to the agent; 0 = anonymous */
    const char *name;      /* "anonymous", "token:ci", "user:alice" */
    uint64_t expires_usec; /* CLOCK_BOOTTIME, UINT64_MAX: never */
} hybus_principal;

/* error: 0, -EKEYREJECTED (wrong or expired credentials: 401), -EACCES (this peer may not connect:
 * 403), -EAGAIN (guessing is throttled: 429, `retry_after_usec` says how long), -ENOKEY (503). */
typedef void (*hybus_principal_callback)(const hybus_principal *p, int error,
                                         uint64_t retry_after_usec, void *userdata);
HYBUS_EXPORT int hybus_agent_check_connection(hybus_agent *a, const hybus_connection *c,
                                              hybus_principal_callback f, void *userdata,
                                              hybus_agent_question **ret);
/* The connection ended; the handle is void from here on. */
HYBUS_EXPORT void hybus_agent_release(hybus_agent *a, uint64_t handle);

/* The client of a handle has asked something: a session that is in use does not end. Once a minute
 * is often enough. One way. */
HYBUS_EXPORT void hybus_agent_touch(hybus_agent *a, uint64_t handle);

/* A login with a password, of whoever stands at the far end of `c` (protocol, peer and tls).
 * `secret`: a bearer for hybus_agent_check_connection(), good until the session ends; valid only
 * during the callback. error: as of hybus_principal_callback; -EKEYREJECTED: wrong user or
 * password. */
typedef void (*hybus_login_callback)(const char *secret, int error, uint64_t retry_after_usec,
                                     void *userdata);
HYBUS_EXPORT int hybus_agent_login(hybus_agent *a, const hybus_connection *c, const char *user,
                                   const char *password, hybus_login_callback f, void *userdata,
                                   hybus_agent_question **ret);
/* Another password for the user of the session c->bearer, who must know the old one: throttled like
 * a login. All sessions of the user end; `secret` is a new one's. error: as of hybus_agent_login();
 * -ENOENT: there is no such session; -EINVAL: the new one is too short or too long; -EACCES: this
 * user may not. */
HYBUS_EXPORT int hybus_agent_own_password(hybus_agent *a, const hybus_connection *c,
                                          const char *old, const char *new, hybus_login_callback f,
                                          void *userdata, hybus_agent_question **ret);
/* Ends a session by its secret, everywhere; `secret` of the callback is NULL. -ENOENT: there is
 * none. */
HYBUS_EXPORT int hybus_agent_logout(hybus_agent *a, const char *secret, hybus_login_callback f,
                                    void *userdata, hybus_agent_question **ret);

/* Withdraws a question: its callback will not be called. NULL is fine. */
HYBUS_EXPORT void hybus_agent_question_cancel(hybus_agent_question *q);

/* A free-form exchange, for h-policy's operations that carry secrets. `request` and `reply` are
 * JSON objects without "id". */
typedef void (*hybus_agent_reply)(const char *reply, size_t size, int error, void *userdata);
HYBUS_EXPORT int hybus_agent_exchange(hybus_agent *a, const char *request, hybus_agent_reply f,
                                      void *userdata, hybus_agent_question **ret);
