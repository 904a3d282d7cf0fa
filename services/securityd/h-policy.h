/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the verbs of h-policy share. */

#include <hybus/json.h>
#include <jansson.h>
#include <systemd/sd-bus.h>

#define SECURITY "org.hybridos.Security1"
#define SECURITY_PATH "/org/hybridos/Security1"
#define ANSWER_SECONDS 30

typedef struct Options {
    bool json;
    const char *id, *when, *user, *subject, *roles;
    uint64_t expires;
    unsigned limit;
    bool code, permissive;
    const char *out;
} Options;

/* Says what went wrong and returns `r`. `message` NULL: what the error number says. */
int complain(const char *what, int r, const char *message);

int open_bus(sd_bus **ret);
/* A method of h-securityd; the arguments of the answer come as a JSON array. `ret` may be NULL. */
int call(const char *method, json_t **ret, const char *signature, ...);
int call_message(sd_bus *bus, sd_bus_message *m, const char *method, json_t **ret);

/* One question over the private socket; takes over `question`. */
int ask(const char *what, json_t *question, json_t **ret);
/* The same for what answers with a secret: *ret_secret is the answer's. */
int ask_secret(const char *what, json_t *question, json_t **answer, const char **ret_secret);
/* 0, or the error it holds, after having said it. */
int answered(const char *what, const json_t *answer);
/* From the terminal, twice and without echo, or a line of standard input. "": none was given. */
#define PASSWORD_SIZE 258 /* 256 bytes and the end of the line */
int read_password(const char *what, char password[PASSWORD_SIZE]);
json_t *list_of_roles(const char *text); /* spaces or commas between them */

/* --- showing answers: text from outside never moves the cursor ------------------------------- */

void put(FILE *f, const char *s);
int print_json(const json_t *value);
void print_record(const json_t *record);
const char *text_of(const json_t *v);
uint64_t number_of(const json_t *v);
void put_time(const json_t *v, const char *none);
const char *field(const json_t *record, const char *key); /* a string of an a{sv}; "": not there */
const json_t *plain(const json_t *variant);

/* --- verbs in files of their own -------------------------------------------------------------- */

int verb_explain(const Options *o, char **words, int n);
int verb_simulate(const Options *o, char **words, int n);
int verb_agent(const Options *o, char **words, int n);
int verb_consent_list(const Options *o, char **words, int n);
int verb_consent_forget(const Options *o, char **words, int n);
int verb_record(const Options *o, char **words, int n);
int verb_user_add(const Options *o, char **words, int n);
int verb_user_password(const Options *o, char **words, int n);
int verb_user_roles(const Options *o, char **words, int n);
int verb_user_list(const Options *o, char **words, int n);
int verb_user_remove(const Options *o, char **words, int n);
int verb_cert_init(const Options *o, char **words, int n);
int verb_cert_issue(const Options *o, char **words, int n);
int verb_cert_list(const Options *o, char **words, int n);
int verb_cert_revoke(const Options *o, char **words, int n);
int verb_node_add(const Options *o, char **words, int n);
int verb_node_list(const Options *o, char **words, int n);
int verb_node_remove(const Options *o, char **words, int n);
int verb_session_list(const Options *o, char **words, int n);
int verb_session_remove(const Options *o, char **words, int n);
