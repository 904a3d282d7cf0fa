/* SPDX-License-Identifier: Apache-2.0 */

/* Manifests of apps: whatever the bytes, nothing of them adds a line to what systemd reads, and
 * what was read is read the same again. */

#include <assert.h>

#include "app-files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t lines(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void check_texts(const App *app)
{
    const AppManifest *m = &app->manifest;
    bool all[APP_ENDPOINTS_MAX];
    char *unit = app_files_unit_text(app, false), *endpoints;
    size_t n_endpoints = 0;

    memset(all, true, sizeof all);
    endpoints = app_files_endpoints_text(app, all);
    assert(unit && endpoints);
    while (m->endpoints && m->endpoints[n_endpoints])
        n_endpoints++;
    assert(lines(unit) == 9 + (n_endpoints > 0));
    assert(lines(endpoints) == 1 + n_endpoints * (*m->title ? 4 : 3));
    free(unit);
    free(endpoints);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    App app = {.uid = APP_UID_FIRST};
    AppManifest again;

    if (app_manifest_parse((const char *)data, size, &app.manifest, &app.source, &e) < 0) {
        assert(!app.manifest.name && !app.source);
        return 0;
    }
    assert(app_name_is_valid(app.manifest.name) && app.manifest.exec[0][0] == '/');
    check_texts(&app);
    assert(app_manifest_read(app.source, &again, &e) == 0);
    assert(again.n_requests == app.manifest.n_requests && again.memory == app.manifest.memory);
    app_manifest_done(&again);
    app_manifest_done(&app.manifest);
    json_decref(app.source);
    return 0;
}
