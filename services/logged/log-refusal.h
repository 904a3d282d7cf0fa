/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the bus itself refused, as its own words in the journal tell. dbus-daemon writes a line,
 * dbus-broker structured fields. Parts of both come from whoever was refused, so nothing but valid
 * names is taken. */

#include <hybus/base.h>

#define LOG_REFUSAL_LINE_MAX 4096u /* longer lines are none of dbus-daemon's */
#define LOG_REFUSAL_NAME_MAX 255u  /* of all names on a bus; paths are cut there */

/* "": the message had none, or the bus does not say. */
typedef struct log_refusal {
    char sender[LOG_REFUSAL_NAME_MAX + 1]; /* its unique name */
    char destination[LOG_REFUSAL_NAME_MAX + 1];
    char interface[LOG_REFUSAL_NAME_MAX + 1];
    char member[LOG_REFUSAL_NAME_MAX + 1];
    char path[LOG_REFUSAL_NAME_MAX + 1];
    uint32_t uid; /* of the sender; LOG_NOBODY: the bus does not say */
    char type;    /* 'm' a call, 'e' a signal, 'r' an answer or error */
    bool receive; /* the rule that refused it was about the receiver */
} log_refusal;

bool log_refusal_equal(const log_refusal *a, const log_refusal *b);

/* dbus-daemon: `[system] Rejected send message, 1 matched rules; type="method_call", sender=":1.7"
 * (uid=…`. False: something else; *ret is untouched then. */
bool log_refusal_of_daemon(const char *line, size_t size, log_refusal *ret);

/* dbus-broker: the values of its fields of these names. */
typedef enum log_broker_field {
    LOG_BROKER_ACTION,      /* DBUS_BROKER_TRANSMIT_ACTION */
    LOG_BROKER_TYPE,        /* DBUS_BROKER_MESSAGE_TYPE */
    LOG_BROKER_SENDER,      /* DBUS_BROKER_SENDER_UNIQUE_NAME */
    LOG_BROKER_DESTINATION, /* DBUS_BROKER_MESSAGE_DESTINATION */
    LOG_BROKER_INTERFACE,   /* DBUS_BROKER_MESSAGE_INTERFACE */
    LOG_BROKER_MEMBER,      /* DBUS_BROKER_MESSAGE_MEMBER */
    LOG_BROKER_PATH,        /* DBUS_BROKER_MESSAGE_PATH */
    LOG_BROKER_FIELDS
} log_broker_field;
extern const char *const log_broker_fields[LOG_BROKER_FIELDS];
/* NULL: it has no such field. */
bool log_refusal_of_broker(const char *const values[LOG_BROKER_FIELDS], log_refusal *ret);
