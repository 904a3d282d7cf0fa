/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What h-securityd knows and does, without bus and sockets: the policy in force, the interfaces,
 * users and tokens, the audit, the shared page. Every change goes through here: tables first, then
 * the page. Telling the peers and waiting for them is agent-socket.c's. */

#include <hybus/page.h>

#include "audit.h"
#include "catalogue.h"
#include "consent.h"
#include "history.h"
#include "node.h"
#include "policy-read.h"
#include "policy.h"
#include "session.h"
#include "store.h"
#include "throttle.h"

#define SECURITY_GRANTED_FILES_MAX 900u
#define SECURITY_CODE_SIZE 12u

/* Fields of the configuration file; see docs/securityd.md. */
typedef struct SecuritySettings {
    char **policy_directories; /* highest precedence first */
    char *grant_directory;     /* one of them; where Grant writes */
    char **vendor_interfaces;  /* directories */
    char **administrator_interfaces;
    char *state_directory, *runtime_directory;
    char *bus_directory; /* included by the configuration of the bus; "": the bus guards nothing for
                            us */
    char *bus_group;     /* of whom the bus denies everything that no rule there allows */
    char *label_code_file; /* the code printed on the device's label, if it has one */
    uint64_t session_idle, session_lifetime; /* µs; 0: no such bound */
} SecuritySettings;

typedef enum Credential {
    CREDENTIAL_TOKEN,
    CREDENTIAL_SESSION,
    CREDENTIAL_CERTIFICATE,
    CREDENTIAL_NODE,
} Credential;

/* Who a remote client is; owned by the connection of the server that asked. */
typedef struct Principal {
    uint64_t handle;
    char *name, *token, *protocol; /* token NULL: it came with something else */
    char **own_roles;              /* of the token or certificate */
    char **roles;                  /* these and those of its user, as of `serial` */
    uint64_t serial;
    bool encrypted, has_peer;
    Network peer; /* its address */
    Credential credential;
    uint64_t expires;          /* as in Token */
    uint8_t hash[SHA256_SIZE]; /* of the credential: a later one of the same name is another */
} Principal;

void principal_free(Principal *p);
HYBUS_DEFINE_CLEANUP(Principal, principal_free)

typedef struct SecurityStatistics {
    uint64_t rows, judgements, denied, connections, checks, throttled, used, limited;
} SecurityStatistics;

typedef struct Security {
    const SecuritySettings *settings;
    Policy *policy;
    Catalogue *catalogue;
    PolicyNotes notes;
    char *policy_error; /* of the last reload; NULL: accepted */
    bool fallback;      /* neither files nor a last accepted policy: only local root */
    Store *store;
    Nodes *nodes;
    Audit *audit;
    History *history;
    Consent *consent;
    hybus_page_writer *page;
    Throttle bearers, codes, logins, names; /* names: of users, for strangers */
    Sessions sessions;
    struct Binding *bindings; /* binding.h */
    size_t n_bindings, bindings_written;
    char *bus_id;
    int bindings_fd;
    bool bindings_lost;
    char setup_code[SECURITY_CODE_SIZE + 1]; /* "" once claimed */
    uint64_t last_id;
    SecurityStatistics statistics;
    Moment moment;             /* see security_moment() */
    uint64_t wall_at, windows; /* when its wall clock was read; see policy_windows() */
    Rates rates;
} Security;

int security_new(const SecuritySettings *settings, AuditSink sink, Security **ret);
void security_free(Security *s);
HYBUS_DEFINE_CLEANUP(Security, security_free)

/* Reads all files anew, all or none. -EBADMSG: see policy_error. 1: something changed, 0: nothing.
 */
int security_reload(Security *s);

uint64_t security_boottime(void);                /* µs of the clock that is never set */
uint64_t security_generation(const Security *s); /* accepted changes since the device was made */
uint32_t security_slot(const Subject *subject);
/* Static buffer; "uid:1000", "user:alice", "anonymous". */
const char *security_subject_name(const Subject *subject);
/* All that a judgement of it depends on, as text: "uid=1000 gids=4,27". Static buffer. */
const char *security_inputs(const Subject *subject);
Subject security_remote_subject(const Principal *p); /* NULL: anonymous */

/* The rules in force with one more, or without one. */
int security_policy_with(const Policy *old, Rule *const *more, size_t n_more, const Rule *less,
                         Policy **ret);

/* A grant in two steps, so that the bus can be asked between them: all checks, giving the rule; and
 * all checks again, then its file, the tables and the page. */
int security_grant_check(Security *s, const Subject *caller, const char *id, const char *to,
                         const char *permissions, const char *when, Rule **ret,
                         hybus_config_error *e);
int security_grant_commit(Security *s, const Subject *caller, Rule *rule, hybus_config_error *e);
/* Both. 1 as security_reload(), or negative with a message in `e` (-EACCES, -EEXIST, -EINVAL,
 * -ENOBUFS). */
int security_grant(Security *s, const Subject *caller, const char *id, const char *to,
                   const char *permissions, const char *when, const Rule **ret,
                   hybus_config_error *e);
/* -ENOENT, -EOPNOTSUPP. Other errors: no longer in force, but a file could not be removed. */
int security_revoke(Security *s, const Subject *caller, const char *id, hybus_config_error *e);

int security_add_user(Security *s, const Subject *caller, const char *name);
/* `password` as crypt(5) writes it, or NULL. Whoever sets one could log in with it, and roles bring
 * rights: the caller must hold all that the user is granted. */
int security_add_user_with(Security *s, const Subject *caller, const char *name, char *const *roles,
                           const char *password, hybus_config_error *e);
/* Its sessions end. -ENOENT, -EACCES; 1 */
int security_set_password(Security *s, const Subject *caller, const char *name,
                          const char *password, hybus_config_error *e);
int security_set_roles(Security *s, const Subject *caller, const char *name, char *const *roles,
                       hybus_config_error *e);
/* The same checks, before the work is done. */
int security_check_user(Security *s, const Subject *caller, const char *name, char *const *roles,
                        hybus_config_error *e);
int security_remove_user(Security *s, const Subject *caller, const char *name);
int security_remove_token(Security *s, const Subject *caller, const char *name);
/* `as` NULL: the token stands for itself. Roles and users bring rights: the maker must hold them.
 */
int security_add_token(Security *s, const Subject *caller, const char *name, const char *as,
                       char *const *roles, uint64_t lifetime_usec, char **ret_secret,
                       hybus_config_error *e);

/* The authority for certificates of clients. -EEXIST: there is one. */
int security_init_authority(Security *s, const Subject *caller);
/* As security_add_token(): a key and its certificate (authority.h); `passphrase` NULL: as PEM. */
int security_issue_certificate(Security *s, const Subject *caller, const char *name, const char *as,
                               char *const *roles, uint64_t lifetime_usec, const char *passphrase,
                               char **ret_bundle, hybus_config_error *e);
int security_revoke_certificate(Security *s, const Subject *caller,
                                const char *name); /* -ENOENT; 1 */
/* NULL is not. */
bool security_certificate_is_good(Security *s, const Certificate *c);
/* *ret stays the list's. */
int security_add_node(Security *s, const Subject *caller, const char *name, const Node **ret,
                      hybus_config_error *e);
int security_remove_node(Security *s, const Subject *caller, const char *name);

/* An administrator. Of a device that nobody has claimed: for local root, or with the setup code.
 * Later: for those who may make tokens and hold all that they hand on. -EACCES, -EINVAL, -ENOBUFS;
 * -EAGAIN with *ret_wait in µs. After a failure all is as it was. */
int security_setup(Security *s, const Subject *caller, const char *code, const char *user,
                   char **ret_secret, uint64_t *ret_wait, hybus_config_error *e);

/* What a client from outside is. -EKEYREJECTED, -EACCES, -EAGAIN with *ret_wait in µs. *ret NULL:
 * anonymous. */
typedef struct Connect {
    const char *protocol, *peer, *tls, *bearer;
    const char *cert_sha256;     /* of a certificate that the server has verified, in hex */
    const char *node, *node_key; /* whose key it has shown to have; node_key_id() of that key */
} Connect;
int security_connect(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait);
/* Its credential has been removed or has expired: it holds nothing any more. */
bool security_principal_is_void(Security *s, const Principal *p);
/* Looks whether its user has got other roles meanwhile. */
int security_principal_refresh(Security *s, Principal *p);
/* Its client is there: a session is in use. */
void security_principal_touch(Security *s, const Principal *p);
/* µs of store_now() when the next token expires; UINT64_MAX: none will. */
uint64_t security_next_expiry(Security *s);
/* Moves the slots of principals whose tokens have expired since `since`. Whether there were any. */
bool security_expire(Security *s, uint64_t since);

/* What is known of now. Its wall clock never runs backwards, nor slower than CLOCK_BOOTTIME: a
 * window of time that has closed is not opened again, nor kept open, by a clock that is set back.
 * Good until the next call. */
const Moment *security_moment(Security *s);
/* Moves all slots when a window of time has opened or closed. Whether one has. */
bool security_windows_moved(Security *s);
/* µs until a window may open or close next; UINT64_MAX: no rule depends on the time. */
uint64_t security_next_window(Security *s);
/* Does the subject hold it now, without any particular call? */
bool security_allows(Security *s, const Subject *subject, const char *permission);
/* A login, in two steps between which the password is compared. Begin: -EAGAIN with *ret_wait. End:
 * 1 and the secret of a new session; -EKEYREJECTED; -EAGAIN; -EACCES (may not connect); -ENOBUFS.
 */
typedef struct Login {
    const char *user, *protocol, *peer, *tls;
} Login;
typedef struct LoginCheck {
    char *hash;   /* to compare with; NULL: compare with nothing, for as long */
    bool known;   /* it has logged in from there before */
    uint64_t key; /* of the peer */
} LoginCheck;
void login_check_done(LoginCheck *c);
int security_login_begin(Security *s, const Login *l, LoginCheck *ret, uint64_t *ret_wait);
int security_login_end(Security *s, const Login *l, const LoginCheck *check, bool right,
                       char **ret_secret, uint64_t *ret_expires, uint64_t *ret_wait);
/* The first half of security_login_end(): -EKEYREJECTED, -EAGAIN with *ret_wait; 0: it is the
 * password. */
int security_login_proved(Security *s, const Login *l, const LoginCheck *check, bool right,
                          uint64_t *ret_wait);

/* A user's own password, changed by who is logged in and knows the old one: begin, then as for a
 * login (throttled like it) security_login_proved(), then the end with the hash of the new one. All
 * sessions end, and *ret_secret is a new one's. Begin sets l->user and *ret_session. -ENOENT: no
 * (or no longer) such session; -EACCES: a rule denies security.own-password. */
int security_own_password_begin(Security *s, const char *session_secret, Login *l,
                                uint64_t *ret_session, LoginCheck *ret, uint64_t *ret_wait);
int security_own_password_end(Security *s, const Login *l, uint64_t session_id,
                              const LoginCheck *check, const char *hash, char **ret_secret,
                              uint64_t *ret_expires);

/* NULL: there is none of that secret, or it is over. */
Session *security_session_of(Security *s, const char *secret);
bool security_session_is_over(const Security *s, const Session *session);
/* 1, or -ENOENT. */
int security_logout(Security *s, const char *secret);
int security_remove_session(Security *s, const Subject *caller, uint64_t id);

/* One judgement with all that is known about it. `call` may be NULL. */
typedef struct Question {
    const char *permission, *interface, *member, *path, *service;
    char kind;
} Question;
Verdict security_judge(Security *s, const Subject *subject, const Question *q);
/* Fills a record (texts from malloc) with what explains `v`; audit_record_done() frees it. */
int security_explain(Security *s, const Subject *subject, const Question *q, const Verdict *v,
                     AuditRecord *ret);
/* Judges and records a refusal; *ret_record is NULL when it is allowed. */
int security_refuse(Security *s, const Subject *subject, const Question *q, Verdict *ret,
                    const AuditRecord **ret_record);
/* Records a refusal that was decided elsewhere. */
int security_record_refusal(Security *s, const Subject *subject, const Question *q,
                            const Verdict *v, const AuditRecord **ret_record);
/* What a filter has let pass: the first of each kind is recorded, the rest counted. */
void security_used(Security *s, const Subject *subject, const char *permission, const char *service,
                   uint64_t n);
/* What a filter turned away without a judgement, and why; counted likewise. `audit`: the id that it
 * gave the record, or NULL. */
void security_turned_away(Security *s, const Subject *subject, const Question *q,
                          const char *reason, const char *audit, uint64_t n);
/* Records a change of policy, user or token. */
void security_note(Security *s, const Subject *subject, const char *call, const char *reason);
