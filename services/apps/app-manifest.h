/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What an app says of itself: its program, the endpoints that it answers, the permissions that it
 * would like to have with a reason for each, and the limits that it can live with. Nothing is
 * granted by it. Strict JSON: an unknown key, a wrong type or a value out of range rejects it
 * whole.
 *
 *     {
 *       "name": "thermo",                        a-z 0-9 -, 1 to 24, a letter first
 *       "title": "Thermometer",                  printable ASCII without \, at most 80; optional
 *       "exec": ["/opt/thermo/thermo", "-v"],    an absolute path and arguments
 *       "endpoints": ["/thermo"],                optional
 *       "permissions": [{"permission": "log.read", "reason": "shows the last errors"}],
 *       "limits": {"memory": 33554432, "tasks": 8, "cpu": 50},      bytes, tasks, percent of one
 * core "start": "boot"                          "boot", "demand" or "manual"
 *     } */

#include <hybus/config.h>
#include <jansson.h>

#define APP_MANIFEST_MAX (64u * 1024u) /* bytes of JSON */
#define APP_NAME_MAX 24u               /* with its prefix it is a user's name: 31 bytes at most */
#define APP_TITLE_MAX 80u
#define APP_REASON_MAX 200u
#define APP_WORDS_MAX 64u /* of "exec" */
#define APP_WORD_MAX 1024u
#define APP_ENDPOINTS_MAX 16u
#define APP_ENDPOINT_MAX 128u
#define APP_REQUESTS_MAX 64u /* "permissions" */
#define APP_MEMORY_MIN (UINT64_C(4) << 20)
#define APP_MEMORY_MAX (UINT64_C(512) << 20)
#define APP_MEMORY_DEFAULT (UINT64_C(64) << 20)
#define APP_TASKS_MAX 256u
#define APP_TASKS_DEFAULT 32u
#define APP_CPU_MAX 200u /* percent of one core */
#define APP_CPU_DEFAULT 50u

/* Whoever holds it has the device's network in the sandbox. */
#define APP_NETWORK "app.network"

typedef enum AppStart {
    APP_START_BOOT,   /* with hybridos.target */
    APP_START_DEMAND, /* with the first request to one of its endpoints */
    APP_START_MANUAL,
} AppStart;

typedef struct AppRequest {
    char *permission, *reason;
} AppRequest;

typedef struct AppManifest {
    char *name, *title; /* never NULL */
    char **exec, **endpoints;
    AppRequest *requests; /* those that its endpoints need come first */
    size_t n_requests;
    uint64_t memory;
    unsigned tasks, cpu;
    AppStart start;
} AppManifest;

bool app_name_is_valid(const char *name);

/* -EBADMSG with `e` set, -ENOMEM. */
int app_manifest_read(const json_t *value, AppManifest *ret, hybus_config_error *e);
/* The same of text; *ret_value, if wanted, is what was read. */
int app_manifest_parse(const char *text, size_t size, AppManifest *ret, json_t **ret_value,
                       hybus_config_error *e);
void app_manifest_done(AppManifest *m);

const AppRequest *app_manifest_request(const AppManifest *m, const char *permission);
