/* SPDX-License-Identifier: Apache-2.0 */
#include "credentials.h"

#define DRIVER "org.freedesktop.DBus"

int hybus_credentials_ask(sd_bus *bus, const char *name, hybus_call_callback f, void *userdata,
                          sd_bus_slot **ret)
{
    return hybus_call_method(bus, DRIVER, "/org/freedesktop/DBus", DRIVER,
                             "GetConnectionCredentials", f, userdata, ret, "s", name);
}

static int read_groups(sd_bus_message *reply, hybus_credentials *c)
{
    const void *gids;
    size_t size;
    int r = sd_bus_message_enter_container(reply, 'v', "au");

    if (r >= 0)
        r = sd_bus_message_read_array(reply, 'u', &gids, &size);
    if (r < 0)
        return r;
    if (size / sizeof *c->gids > HYBUS_CREDENTIALS_GROUPS_MAX)
        return -E2BIG;
    c->gids = gids;
    c->n_gids = size / sizeof *c->gids;
    return sd_bus_message_exit_container(reply);
}

int hybus_credentials_read(sd_bus_message *reply, hybus_credentials *ret)
{
    bool has_uid = false, has_groups = false;
    hybus_credentials c = {.uid = UINT32_MAX};
    int r = sd_bus_message_enter_container(reply, 'a', "{sv}");

    while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
        const char *key;

        r = sd_bus_message_read(reply, "s", &key);
        if (r < 0)
            return r;
        if (streq(key, "UnixUserID")) {
            r = sd_bus_message_read(reply, "v", "u", &c.uid);
            has_uid = true;
        } else if (streq(key, "UnixGroupIDs")) {
            r = read_groups(reply, &c);
            has_groups = true;
        } else {
            r = sd_bus_message_skip(reply, "v");
        }
        if (r >= 0)
            r = sd_bus_message_exit_container(reply);
    }
    if (r < 0)
        return r;
    if (!has_uid || !has_groups || c.uid == UINT32_MAX)
        return -EACCES;
    *ret = c;
    return 0;
}
