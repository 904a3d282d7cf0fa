/* SPDX-License-Identifier: Apache-2.0 */
/* What may be asked over the private socket (docs/protocols/agent.md). */

#include <endian.h>
#include <hybus/agent.h>
#include <hybus/error.h>
#include <hybus/json.h>
#include <time.h>

#include "agent-cert.h"
#include "agent-login.h"
#include "agent-ops.h"
#include "binding.h"
#include "bus-refusal.h"
#include "named-subject.h"

#define PACKET_MAX HYBUS_AGENT_PACKET_MAX

static void json_cleanup(json_t **j)
{
    json_decref(*j);
}

/* --- hello ----------------------------------------------------------------------------------- */

static int permission_index(char ***list, const char *permission)
{
    size_t n = 0;
    int r;

    for (; *list && (*list)[n]; n++)
        if (streq((*list)[n], permission))
            return (int)n;
    r = words_add(list, permission, strlen(permission));
    return r < 0 ? r : (int)n;
}

static int add_members(const Peer *p, const char *interface, json_t *members, char ***permissions)
{
    const Member *m;
    size_t n = catalogue_interface(p->security->catalogue, interface, &m);

    /* More would not fit into the answer: nobody makes us work for nothing. */
    if (json_array_size(members) + n > AGENT_MEMBERS_MAX)
        return -ENOBUFS;
    for (size_t i = 0; i < n; i++) {
        const char kind[] = {m[i].kind, '\0'};
        int index = m[i].permission ? permission_index(permissions, m[i].permission) : -1;

        if (index < -1)
            return index;
        json_array_append_new(members,
                              json_pack("[s, s, s, i]", interface, m[i].name, kind, index));
    }
    return 0;
}

static int send_hello(Peer *p, const json_t *q, json_t *members)
{
    hybus_page_writer *page = p->security->page;
    json_t *answer = answer_to(q), *list = json_array();
    int r;

    for (char **w = p->permissions; w && *w; w++)
        json_array_append_new(list, json_string(*w));
    json_object_set_new(answer, "epoch", decimal(hybus_page_writer_epoch(page)));
    json_object_set_new(answer, "generation",
                        json_integer((json_int_t)hybus_page_writer_generation(page)));
    json_object_set_new(answer, "permissions", list);
    json_object_set_new(answer, "members", members);
    json_object_set_new(answer, "claimed", json_boolean(p->security->store->claimed));
    r = peer_send(p, answer, hybus_page_writer_fd(page));
    return r == -EMSGSIZE ? refuse(p, q, -ENOBUFS, "these interfaces do not fit into one answer")
                          : r;
}

static int op_hello(Peer *p, const json_t *q)
{
    const json_t *interfaces = json_object_get(q, "interfaces"), *one;
    const char *service = strempty(string(q, "service"));
    char **permissions = NULL;
    json_t *members;
    size_t i;
    int r = 0;

    if (json_integer_value(json_object_get(q, "version")) != 1)
        return refuse(p, q, -EINVAL, "only version 1 is spoken here");
    if (!principal_name_is_valid(service))
        return refuse(p, q, -EINVAL, "service: a component name is needed");
    if (interfaces && !json_is_array(interfaces))
        return refuse(p, q, -EINVAL, "interfaces: a list is needed");
    if (json_array_size(interfaces) > AGENT_INTERFACES_MAX)
        return refuse(p, q, -ENOBUFS, "too many interfaces");
    members = json_array();
    json_array_foreach(interfaces, i, one) if (r >= 0) r =
        add_members(p, strempty(json_string_value(one)), members, &permissions);
    if (r < 0) {
        json_decref(members);
        words_free(permissions);
        return r == -ENOBUFS ? refuse(p, q, r, "these interfaces do not fit into one answer") : r;
    }
    words_free(p->permissions);
    p->permissions = permissions;
    if (!p->holds)
        p->settled = hybus_page_writer_generation(p->security->page);
    snprintf(p->service, sizeof p->service, "%s", service);
    return send_hello(p, q, members);
}

/* --- rows and judgements --------------------------------------------------------------------- */

static bool is_id(const json_t *j)
{
    return json_is_integer(j) && json_integer_value(j) >= 0 && json_integer_value(j) <= UINT32_MAX;
}

/* A handle of another connection is as unknown as one that never was. */
static int read_remote(const Peer *p, const json_t *handle, Asked *ret)
{
    Principal *principal;

    if (!json_is_integer(handle) || json_integer_value(handle) < 0)
        return -EINVAL;
    if (json_integer_value(handle) == 0) {
        ret->subject = security_remote_subject(NULL);
        return 0;
    }
    principal = peer_principal(p, (uint64_t)json_integer_value(handle));
    if (!principal)
        return -ENOENT;
    if (security_principal_refresh(p->security, principal) < 0)
        return -ENOMEM;
    ret->subject = security_remote_subject(principal);
    ret->subject.ended = security_principal_is_void(p->security, principal);
    return 0;
}

/* A caller on the bus whom the bus does not know, by its unique name. */
static int read_unknown(const json_t *q, Asked *ret)
{
    const char *name = strempty(string(q, "name"));

    if (*name != ':' || strlen(name) > 255)
        return -EINVAL;
    ret->subject = (Subject){.unknown = true, .bus_name = name};
    return 0;
}

int ops_read_subject(const Peer *p, const json_t *q, Asked *ret)
{
    const json_t *handle = json_object_get(q, "handle"), *uid = json_object_get(q, "uid");
    const json_t *gids = json_object_get(q, "gids"), *gid;
    size_t i;

    if (handle && uid)
        return -EINVAL;
    if (handle)
        return read_remote(p, handle, ret);
    if (!uid)
        return read_unknown(q, ret);
    if (!is_id(uid) || (gids && !json_is_array(gids)) || json_array_size(gids) > POLICY_GROUPS_MAX)
        return -EINVAL;
    json_array_foreach(gids, i, gid)
    {
        if (!is_id(gid))
            return -EINVAL;
        ret->gids[i] = (uint32_t)json_integer_value(gid);
    }
    ret->subject = (Subject){.uid = (uint32_t)json_integer_value(uid),
                             .gids = ret->gids,
                             .n_gids = json_array_size(gids)};
    security_apply_binding(p->security, &ret->subject, string(q, "name"), &ret->behalf);
    return 0;
}

static int asked_permissions(const Peer *p, const json_t *q, const char ***ret, size_t *ret_n)
{
    const json_t *list = json_object_get(q, "permissions"), *one;
    size_t n = list ? json_array_size(list) : words_count(p->permissions), i;
    const char **permissions;

    if (list && (!json_is_array(list) || n > HYBUS_AGENT_PERMISSIONS_MAX))
        return json_is_array(list) ? -ENOBUFS : -EINVAL;
    permissions = calloc(n + 1, sizeof *permissions);
    if (!permissions)
        return -ENOMEM;
    for (i = 0; !list && i < n; i++)
        permissions[i] = p->permissions[i];
    json_array_foreach(list, i, one)
    {
        /* An ill-formed name is simply one that nobody holds. */
        permissions[i] = strempty(json_string_value(one));
    }
    *ret = permissions;
    *ret_n = n;
    return 0;
}

static int op_row(Peer *p, const json_t *q)
{
    _cleanup_(freep) const char **permissions = NULL;
    _cleanup_(freep) uint64_t *bits = NULL;
    _cleanup_(freep) char *text = NULL;
    Security *s = p->security;
    uint64_t stamp;
    uint32_t slot;
    json_t *answer;
    Asked asked;
    size_t n;
    int r;

    if (!peer_may(p, "security.row"))
        return refuse(p, q, -EACCES, "asking about others needs security.row");
    r = ops_read_subject(p, q, &asked);
    if (r >= 0)
        r = asked_permissions(p, q, &permissions, &n);
    if (r < 0)
        return refuse(p, q, r, "not a subject or not a list of permissions");
    slot = security_slot(&asked.subject);
    stamp = hybus_page_writer_slot(s->page, slot);
    bits = calloc(n / 64 + 1, sizeof *bits);
    if (!bits)
        return -ENOMEM;
    asked.subject.moment = security_moment(s);
    policy_row(s->policy, &asked.subject, permissions, n, bits);
    for (size_t i = 0; i < n / 64 + 1; i++)
        bits[i] = htole64(bits[i]);
    r = hybus_base64_encode(bits, (n + 7) / 8, &text);
    if (r < 0)
        return r;
    s->statistics.rows++;
    p->holds = true;
    answer = answer_to(q);
    json_object_set_new(answer, "epoch", decimal(hybus_page_writer_epoch(s->page)));
    json_object_set_new(answer, "slot", json_integer(slot));
    json_object_set_new(answer, "stamp", decimal(stamp));
    json_object_set_new(answer, "count", json_integer((json_int_t)n));
    json_object_set_new(answer, "bits", json_string(text));
    return peer_send(p, answer, -1);
}

static int op_used(Peer *p, const json_t *q)
{
    json_int_t count = json_integer_value(json_object_get(q, "count"));
    const char *permission = strempty(string(q, "permission"));
    Asked asked;

    if (!peer_may(p, "security.row") || count <= 0 || !permission_is_valid(permission))
        return 0;
    /* A handle may have been released before the last of its uses is told. */
    if (ops_read_subject(p, q, &asked) < 0)
        p->security->statistics.used += (uint64_t)count;
    else
        security_used(p->security, &asked.subject, permission, p->service, (uint64_t)count);
    return 0;
}

/* Only these words go into the audit. */
static const char *unjudged_reason(const char *word)
{
    if (streq(word, "limit"))
        return "too many calls of this caller wait for a decision";
    if (streq(word, "identity"))
        return "the caller left before its identity was established";
    return NULL;
}

static int op_unjudged(Peer *p, const json_t *q)
{
    json_int_t count = json_integer_value(json_object_get(q, "count"));
    const char *reason = unjudged_reason(strempty(string(q, "reason")));
    const Question question = {.interface = string(q, "interface"),
                               .member = string(q, "member"),
                               .service = p->service,
                               .kind = 'm'};
    Asked asked;

    if (peer_may(p, "security.row") && count > 0 && reason && ops_read_subject(p, q, &asked) >= 0)
        security_turned_away(p->security, &asked.subject, &question, reason, string(q, "audit"),
                             (uint64_t)count);
    return 0;
}

/* Their groups as NSS knows them: the bus tells none, and its rules were made for these. A
 * connection that has left before anybody could ask is known by its name alone, or not at all. */
static int read_sender(const Peer *p, const json_t *q, NamedSubject *ret, Subject *behalf)
{
    const json_t *uid = json_object_get(q, "uid");
    char text[32];
    int r;

    *ret = (NamedSubject){.subject = {.unknown = true, .bus_name = strempty(string(q, "name"))}};
    if (!uid)
        return strlen(ret->subject.bus_name) > 255 ? -EINVAL : 0;
    if (!is_id(uid))
        return -EINVAL;
    snprintf(text, sizeof text, "uid:%u", (uint32_t)json_integer_value(uid));
    r = named_subject_parse(p->security, text, ret);
    if (r >= 0)
        security_apply_binding(p->security, &ret->subject, string(q, "name"), behalf);
    return r;
}

static int op_bus_refused(Peer *p, const json_t *q)
{
    json_int_t count = json_integer_value(json_object_get(q, "count"));
    const char *type = strempty(string(q, "type"));
    const BusRefusal refusal = {.type = *type,
                                .receive = json_is_true(json_object_get(q, "receive")),
                                .destination = string(q, "destination"),
                                .interface = string(q, "interface"),
                                .member = string(q, "member"),
                                .path = string(q, "path")};
    NamedSubject sender;
    Subject behalf;

    if (!peer_may(p, "security.bus-refused") || count <= 0 || strlen(type) != 1 ||
        !strchr("mer", *type) || read_sender(p, q, &sender, &behalf) < 0)
        return 0;
    security_bus_refused(p->security, &sender.subject, &refusal, (uint64_t)count);
    named_subject_done(&sender);
    return 0;
}

/* --- connections, setup, tokens -------------------------------------------------------------- */

/* µs of CLOCK_BOOTTIME at which the token expires, by the clock that is never set. */
static json_t *expires_json(Security *s, const Principal *principal)
{
    struct timespec ts;
    uint64_t now = store_now(s->store);

    if (!principal || !principal->expires)
        return json_string("never");
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return decimal((uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u +
                   (principal->expires > now ? principal->expires - now : 0));
}

static int op_connect(Peer *p, const json_t *q)
{
    const Connect c = {.protocol = string(q, "protocol"),
                       .peer = string(q, "peer"),
                       .tls = string(q, "tls"),
                       .bearer = string(q, "bearer"),
                       .cert_sha256 = string(q, "cert_sha256"),
                       .node = string(q, "node"),
                       .node_key = string(q, "node_key")};
    Principal *principal = NULL;
    uint64_t wait = 0;
    json_t *answer;
    int r;

    if (!peer_may(p, "security.connect"))
        return refuse(p, q, -EACCES, "only servers ask this: it needs security.connect");
    if (!is_missing_or(q, "bearer", JSON_STRING)) /* it would be anonymous */
        return refuse(p, q, -EINVAL, "bearer: a string");
    if (!is_missing_or(q, "cert_sha256", JSON_STRING))
        return refuse(p, q, -EINVAL, "cert_sha256: a string");
    if (!is_missing_or(q, "node", JSON_STRING))
        return refuse(p, q, -EINVAL, "node: a name");
    if (c.node && (c.bearer || !peer_may(p, "security.psk")))
        return refuse(p, q, -EACCES, "only who has the keys says whose it was: security.psk");
    r = security_connect(p->security, &c, &principal, &wait);
    if (r == -EAGAIN)
        return throttled(p, q, wait);
    if (r < 0)
        return refuse(p, q, r, r == -EKEYREJECTED ? "wrong or expired credentials" : "refused");
    answer = answer_to(q);
    json_object_set_new(answer, "handle",
                        json_integer(principal ? (json_int_t)principal->handle : 0));
    json_object_set_new(answer, "principal",
                        json_string(principal ? principal->name : "anonymous"));
    json_object_set_new(answer, "expires", expires_json(p->security, principal));
    r = principal ? peer_add_principal(p, principal) : 0;
    if (r < 0) {
        json_decref(answer);
        return refuse(p, q, r, "too many handles; release some");
    }
    p->security->statistics.connections++;
    p->holds = true;
    return peer_send(p, answer, -1);
}

static int op_release(Peer *p, const json_t *q)
{
    json_int_t handle = json_integer_value(json_object_get(q, "handle"));

    if (handle > 0)
        peer_remove_principal(p, (uint64_t)handle);
    return 0;
}

static int op_setup(Peer *p, const json_t *q)
{
    const Subject caller = peer_subject(p);
    uint64_t wait = 0;
    char *secret = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    int r = security_setup(p->security, &caller, string(q, "code"), strempty(string(q, "user")),
                           &secret, &wait, &e);

    if (r == -EAGAIN)
        return throttled(p, q, wait);
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    if (p->socket)
        agent_socket_tell_change(p->socket);
    return send_secret(p, q, secret);
}

static int op_token_add(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const Subject caller = peer_subject(p);
    char *secret = NULL;
    Wanted w;
    int r = read_credential(p, q, "token-add", &w);

    if (r <= 0)
        return r;
    r = security_add_token(p->security, &caller, w.name, w.as, w.roles, w.lifetime, &secret, &e);
    words_free(w.roles);
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    if (p->socket)
        agent_socket_arm_expiry(p->socket);
    return send_secret(p, q, secret);
}

/* --- nodes ----------------------------------------------------------------------------------- */

/* A string that is wiped once it has been sent. */
typedef struct SecretStrings {
    json_t *list[AGENT_NODES_PER_ANSWER];
    size_t n;
} SecretStrings;

static void secret_strings_done(SecretStrings *s)
{
    while (s->n > 0) {
        char *text = (char *)json_string_value(s->list[--s->n]);

        explicit_bzero(text, strlen(text));
        json_decref(s->list[s->n]);
    }
}

static json_t *secret_string(SecretStrings *s, const void *data, size_t size)
{
    char *text = NULL;
    json_t *j;

    if (hybus_base64_encode(data, size, &text) < 0)
        return NULL;
    j = json_string(text);
    explicit_bzero(text, strlen(text));
    free(text);
    if (j)
        s->list[s->n++] = json_incref(j);
    return j;
}

/* All keys, as many as fit into an answer; `after` says how many the asker has. */
static int op_psk(Peer *p, const json_t *q)
{
    _cleanup_(secret_strings_done) SecretStrings secrets = {.n = 0};
    const Nodes *nodes = p->security->nodes;
    json_int_t after = json_integer_value(json_object_get(q, "after"));
    json_t *answer, *list;
    int r = 0;

    if (!peer_may(p, "security.psk"))
        return refuse(p, q, -EACCES,
                      "keys of nodes are for the server that needs them: security.psk");
    if (!is_missing_or(q, "after", JSON_INTEGER) || after < 0)
        return refuse(p, q, -EINVAL, "after: how many are known already");
    list = json_array();
    for (size_t i = (size_t)after; i < nodes->n && secrets.n < AGENT_NODES_PER_ANSWER; i++) {
        json_t *key = secret_string(&secrets, nodes->list[i].key, NODE_KEY_SIZE);

        if (json_array_append_new(list, json_pack("[s, o]", nodes->list[i].name, key)) < 0)
            r = -ENOMEM;
    }
    answer = answer_to(q);
    json_object_set_new(answer, "nodes", list);
    json_object_set_new(answer, "generation",
                        json_integer((json_int_t)hybus_page_writer_generation(p->security->page)));
    json_object_set_new(answer, "more",
                        json_boolean((size_t)after + AGENT_NODES_PER_ANSWER < nodes->n));
    if (r < 0) {
        json_decref(answer);
        return r;
    }
    p->holds = true;
    return peer_send(p, answer, -1);
}

static int op_node_add(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const Subject caller = peer_subject(p);
    const Question question = {
        .permission = "security.nodes", .interface = "agent", .member = "node-add", .kind = 'm'};
    const AuditRecord *record;
    const Node *node = NULL;
    char *secret;
    Verdict v;
    int r;

    if (security_refuse(p->security, &caller, &question, &v, &record) < 0 || !v.allowed)
        return refuse(p, q, -EACCES, "making nodes needs security.nodes");
    r = security_add_node(p->security, &caller, strempty(string(q, "name")), &node, &e);
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    secret = strndup((const char *)node->key, NODE_KEY_SIZE);
    if (!secret)
        return -ENOMEM;
    if (p->socket)
        agent_socket_tell_change(p->socket);
    return send_secret(p, q, secret);
}

static int op_settled(Peer *p, const json_t *q)
{
    json_int_t generation = json_integer_value(json_object_get(q, "generation"));

    if (generation > 0 && (uint64_t)generation > p->settled)
        p->settled = (uint64_t)generation;
    if (p->socket)
        agent_socket_look(p->socket);
    return 0;
}

/* --- packets --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*f)(Peer *, const json_t *);
    bool one_way, before_hello;
} operations[] = {
    {"row", op_row},
    {"judge", ops_judge},
    {"withdraw", ops_withdraw, .one_way = true},
    {"used", op_used, .one_way = true},
    {"unjudged", op_unjudged, .one_way = true},
    {"bus-refused", op_bus_refused, .one_way = true},
    {"connect", op_connect},
    {"release", op_release, .one_way = true},
    {"login", op_login},
    {"logout", op_logout},
    {"own-password", op_own_password},
    {"touch", op_touch, .one_way = true},
    {"cert-init", op_cert_init, .before_hello = true},
    {"cert-issue", op_cert_issue, .before_hello = true},
    {"user-add", op_user_add, .before_hello = true},
    {"user-password", op_user_password, .before_hello = true},
    {"settled", op_settled, .one_way = true},
    {"hello", op_hello, .before_hello = true},
    {"setup", op_setup, .before_hello = true},
    {"token-add", op_token_add, .before_hello = true},
    {"node-add", op_node_add, .before_hello = true},
    {"psk", op_psk},
};

static int dispatch(Peer *p, const json_t *q)
{
    const json_t *id = json_object_get(q, "id");
    const char *op = strempty(string(q, "op"));
    bool valid_id = json_is_integer(id) && json_integer_value(id) >= 1 &&
                    json_integer_value(id) <= (json_int_t)1 << 53;

    for (size_t i = 0; i < ELEMENTS(operations); i++) {
        if (!streq(operations[i].name, op))
            continue;
        if (!operations[i].one_way && !valid_id)
            return -EPROTO;
        if (!*p->service && !operations[i].before_hello)
            return -EPROTO;
        return operations[i].f(p, q);
    }
    if (!*p->service || !valid_id)
        return -EPROTO;
    return refuse(p, q, -EINVAL, "no such op");
}

int peer_packet(Peer *p, const char *packet, size_t size)
{
    _cleanup_(json_cleanup) json_t *q = NULL;

    if (size > PACKET_MAX)
        return -EPROTO;
    q = json_loadb(packet, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(q))
        return -EPROTO;
    return dispatch(p, q);
}
