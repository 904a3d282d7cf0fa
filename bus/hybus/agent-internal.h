/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the agent's client share: agent.c is the connection and its life,
 * agent-question.c what is asked and answered over it, agent-hello.c what the agent told of itself
 * and of the service. */

#include <jansson.h>
#include <sys/queue.h>

#include "agent.h"

#define AGENT_RETRY_FIRST_USEC (10u * 1000u)
#define AGENT_RETRY_LAST_USEC (1000u * 1000u)
#define AGENT_NOTES_MAX 256u /* one-way packets waiting; more "used" notes are dropped */
#define AGENT_CHANGED_MAX 8u
#define AGENT_MEMBERS_MAX 8192u
#define AGENT_HELLO_ID ((json_int_t)HYBUS_AGENT_PENDING_MAX << 32)

typedef enum QuestionKind {
    QUESTION_ROW,
    QUESTION_JUDGE,
    QUESTION_CONNECT,
    QUESTION_LOGIN, /* and logout */
    QUESTION_EXCHANGE,
} QuestionKind;

struct hybus_agent_question {
    TAILQ_ENTRY(hybus_agent_question) queue;
    hybus_agent *agent;
    QuestionKind kind;
    uint64_t id, deadline_usec;
    char *packet;
    uint64_t hello; /* the last hello sent before it: what the bits of a row refer to */
    bool own_list;  /* a row over the permissions of that hello */
    bool sent;
    bool patient; /* a person is being asked: in another queue, with a later deadline */
    union {
        hybus_row_callback row;
        hybus_verdict_callback verdict;
        hybus_principal_callback principal;
        hybus_login_callback login;
        hybus_agent_reply reply;
    } f;
    void *userdata;
};

typedef struct Note {
    TAILQ_ENTRY(Note) queue;
    char *packet;
} Note;

typedef struct Changed {
    hybus_agent_changed f;
    void *userdata;
    uint64_t settled;
} Changed;

TAILQ_HEAD(Questions, hybus_agent_question);

struct hybus_agent {
    sd_event *event;
    char *path, *service;
    json_t *interfaces;
    int fd;
    sd_event_source *io, *retry, *deadline;
    uint64_t retry_usec;
    bool ready; /* hello has been answered */

    const hybus_page *page;
    json_t *hello; /* the last answer; owns the strings of the two arrays */
    hybus_member *members;
    size_t n_members;
    const char **permissions;
    size_t n_permissions;
    uint64_t hellos_sent, hellos_answered;
    uint64_t generation, settled;

    Changed changed[AGENT_CHANGED_MAX];
    size_t n_changed;

    struct Questions waiting, asked, patient;             /* each in the order of their deadlines */
    hybus_agent_question *by_id[HYBUS_AGENT_PENDING_MAX]; /* by id modulo its size */
    uint64_t next_id;
    size_t n_questions;
    TAILQ_HEAD(, Note) notes;
    size_t n_notes;
    uint64_t dropped;
    char *buffer; /* of HYBUS_AGENT_PACKET_MAX + 1 */
};

/* --- agent.c --------------------------------------------------------------------------------- */

/* One packet as if it had come from the agent, for fuzzing. */
int hybus_agent_packet(hybus_agent *a, const char *packet, size_t size, int fd);
/* 1: sent, 0: later, <0: this packet cannot be sent, or the connection is lost. */
int agent_send_packet(hybus_agent *a, const char *packet);
void agent_want(hybus_agent *a, uint32_t events);

/* A number, or its decimal text; -EPROTO. */
int agent_decimal(const json_t *v, uint64_t *ret);
/* What an answer says about success. */
int agent_error_code(const json_t *answer);

/* --- agent-question.c ------------------------------------------------------------------------ */

/* Sends what waits. Never closes the connection itself: a loss shows as EPOLLHUP in the loop, so
 * that no callback runs inside a caller's question. */
void agent_flush(hybus_agent *a);
/* Takes over `o`. */
/* false: it was dropped. */
bool agent_send_note(hybus_agent *a, json_t *o, bool droppable);
void agent_notes_drop(hybus_agent *a);
void agent_questions_free(hybus_agent *a);
void agent_arm_deadline(hybus_agent *a);
int agent_on_deadline(sd_event_source *s, uint64_t usec, void *userdata);
/* Questions that may be asked twice wait for the next agent; the others fail. */
void agent_requeue(hybus_agent *a);
void agent_answer(hybus_agent *a, uint64_t id, const json_t *answer, const char *packet,
                  size_t size);

/* --- agent-hello.c --------------------------------------------------------------------------- */

int agent_send_hello(hybus_agent *a);
int agent_answer_hello(hybus_agent *a, json_t *answer, int fd);
void agent_send_settled(hybus_agent *a);
