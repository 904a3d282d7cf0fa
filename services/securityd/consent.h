/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What rules of the kind `ask` leave to a person: who waits for an answer, what has been answered, and for
 * how long that counts. Knows neither buses nor sockets: whoever reaches people sets an asker
 * (consent-bus.c), whoever has calls that wait brings waiters (agent-ops.c). */

#include <hybus/base.h>
#include <sys/queue.h>

#include "rates.h"
#include "state-file.h"

#define CONSENT_PENDING_MAX 32u     /* questions before people at a time */
#define CONSENT_PER_SUBJECT_MAX 4u  /* of them, of one subject */
#define CONSENT_WAITERS_MAX 1024u   /* calls that wait for them */
#define CONSENT_REMEMBERED_MAX 1024u
#define CONSENT_RATE 6u             /* new questions of one subject in */
#define CONSENT_RATE_USEC (60u * 1000u * 1000u)
#define CONSENT_WAIT_USEC (60u * 1000u * 1000u) /* then it counts as no */
#define CONSENT_KEEP_MAX_SECONDS 86400u
#define CONSENT_ALWAYS UINT64_MAX
#define CONSENT_ARGUMENTS_SHOWN 4096u /* bytes; of longer ones the question says that they are cut */

/* All that an answer is bound to. The texts are the caller's. */
typedef struct ConsentCall {
    const char *subject, *inputs, *permission, *rule;
    const char *service, *interface, *member, *path, *arguments; /* arguments: JSON, "" without */
    char kind;
    bool secret;           /* some argument is only known by its length: the answer counts once */
    uint32_t uid;          /* of a local one, or UINT32_MAX */
} ConsentCall;

typedef struct ConsentQuestion ConsentQuestion; /* one that a person is being asked */
typedef struct Consent Consent;

/* A call that waits. `f` is called once, from the loop, unless it is withdrawn. */
typedef struct ConsentWaiter {
    TAILQ_ENTRY(ConsentWaiter) list;
    ConsentQuestion *question; /* NULL: does not wait */
    void (*f)(struct ConsentWaiter *w, bool yes, const char *why);
} ConsentWaiter;

/* Asks somebody else than the uid; -ENOENT: nobody is there. The question stays the model's until
 * consent_answer() or the asker's cancel(). */
typedef struct ConsentAsker {
    int (*ask)(ConsentQuestion *q, const ConsentCall *call, void *userdata);
    void (*cancel)(ConsentQuestion *q, void *userdata);
    void *userdata;
} ConsentAsker;

/* Reads what is remembered for always from `directory`; a damaged file is as none. */
int consent_new(const char *directory, Consent **ret);
void consent_free(Consent *c);
HYBUS_DEFINE_CLEANUP(Consent, consent_free)
void consent_set_asker(Consent *c, const ConsentAsker *asker);

/* 1: a remembered yes; -EACCES: a remembered no; 0: has to be asked. *ret_why: static or the model's. */
int consent_remembered(Consent *c, const ConsentCall *call, uint64_t now, const char **ret_why);
/* `w` waits. -ENOENT: there is nobody to be asked; -ENOBUFS: too many questions wait. */
int consent_ask(Consent *c, const ConsentCall *call, uint64_t now, ConsentWaiter *w);
/* It no longer waits; a question that nobody waits for is taken back. */
void consent_withdraw(ConsentWaiter *w);

/* Somebody has answered, for `keep` seconds (0: these calls only; CONSENT_ALWAYS). `why` says who. What could
 * not be kept for always counts as once: a negative error. */
int consent_answer(ConsentQuestion *q, bool yes, uint64_t keep, const char *why, uint64_t now);
void *consent_tag(const ConsentQuestion *q);
void consent_set_tag(ConsentQuestion *q, void *tag);

/* Whoever comes later by that name is somebody else. */
void consent_forget_subject(Consent *c, const char *subject);

typedef struct ConsentRemembered {
    char id[17]; /* to forget it by */
    char *subject, *call, *rule, *why;
    bool yes;
    uint64_t until; /* as the caller's clock, or CONSENT_ALWAYS */
    uint8_t digest[SHA256_SIZE];
} ConsentRemembered;

size_t consent_list(Consent *c, uint64_t now, const ConsentRemembered **ret);
/* -ENOENT */
int consent_forget(Consent *c, const char *id);
