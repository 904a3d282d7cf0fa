/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Tells h-securityd, which keeps the audit, what the bus has refused. The same again while it waits
 * to be told is a count; of more kinds than there is room for, only their number is told. */

#include <hybus/agent.h>
#include <systemd/sd-bus.h>

#include "log-refusal.h"

#define LOG_REPORT_KINDS_MAX 64u

typedef struct log_report log_report;

int log_report_new(sd_bus *bus, hybus_agent *agent, log_report **ret);
void log_report_free(log_report *r);
HYBUS_DEFINE_CLEANUP(log_report, log_report_free)

/* `monotonic`: when it was logged (microseconds since boot). dbus-broker names the connection only:
 * whose that is can be asked while it is there, and of the bus that we are connected to. */
void log_report_add(log_report *r, const log_refusal *refusal, uint64_t monotonic);
