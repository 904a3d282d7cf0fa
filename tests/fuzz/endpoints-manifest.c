/* SPDX-License-Identifier: Apache-2.0 */

/* Manifests: whatever the bytes, either everything is valid or nothing is given. */

#include <assert.h>

#include "endpoints-manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int any_user(const char *name, uint32_t *ret)
{
    *ret = 60700;
    return name[0] == 'x' ? -ESRCH : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {};
    endpoints_spec *specs;
    size_t n;

    if (hybus_config_new(&c) < 0 || hybus_config_parse(c, "x", (const char *)data, size, &e) < 0 ||
        manifest_read(c, any_user, &specs, &n, &e) < 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        assert(endpoints_namespace_valid(specs[i].ns, strlen(specs[i].ns)) && specs[i].unit &&
               !strchr(specs[i].unit, '/'));
    manifest_done(specs, n);
    return 0;
}
