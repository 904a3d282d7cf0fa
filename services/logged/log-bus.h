/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* org.hybridos.Log1 on the bus. */

#include <hybus/agent.h>
#include <systemd/sd-bus.h>

#include "log-pipe.h"
#include "log-receive.h"
#include "log-sink.h"
#include "log-sync.h"

#define LOG_BUS_NAME "org.hybridos.Log1"
#define LOG_BUS_PATH "/org/hybridos/Log1"
#define LOG_BUS_CALLS_MAX 64u        /* questions on their way, below the bus's own 128 */
#define LOG_BUS_CALLS_CALLER_MAX 16u /* of one connection */
#define LOG_BUS_QUERY_DEFAULT 100u
#define LOG_BUS_QUERY_MAX 1000u
#define LOG_BUS_QUERY_BYTES (1024u * 1024u)

typedef struct log_bus log_bus;

/* Of the intakes and of the sink, asked for when somebody wants them. */
typedef struct log_counters {
    uint64_t malformed;
    log_receive_statistics receive;
    log_sink_statistics sink;
} log_counters;

typedef struct log_bus_options {
    sd_bus *bus;
    hybus_agent *agent;
    log_book *book;
    log_pipes *pipes;
    log_sync *sync;
    void (*counters)(log_counters *ret, void *userdata);
    void *userdata;
} log_bus_options;

int log_bus_new(const log_bus_options *o, log_bus **ret);
void log_bus_free(log_bus *b);
HYBUS_DEFINE_CLEANUP(log_bus, log_bus_free)
void log_bus_settings_changed(log_bus *b);
