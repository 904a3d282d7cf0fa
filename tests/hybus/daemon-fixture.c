/* SPDX-License-Identifier: Apache-2.0 */

/* The smallest daemon, for test-daemon.c. */

#include <hybus/daemon.h>
#include <hybus/log.h>

typedef struct Settings {
    uint64_t count;
} Settings;

static const hybus_setting settings[] = {
    {"fixture", "Count", HYBUS_SETTING_UINT, offsetof(Settings, count), "1", 1, 10},
    {NULL},
};

static int reload(hybus_daemon *d, void *userdata)
{
    const Settings *s = hybus_daemon_settings(d);
    uint64_t *count = userdata;

    *count = s->count;
    return 0;
}

static int check(void)
{
    return getenv("FIXTURE_BAD_FILE") ? -EBADMSG : 0;
}

static int get_count(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const uint64_t *count = userdata;

    return sd_bus_reply_method_return(m, "t", *count);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Count", "", "t", get_count, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

int main(int argc, char *argv[])
{
    static const char *const interfaces[] = {"org.hybridos.Fixture1", NULL};
    hybus_daemon_info info = {
        .component = "fixtured",
        .concept = "Fixture",
        .description = "A daemon for a test.",
        .interfaces = interfaces,
        .settings = settings,
        .settings_size = sizeof(Settings),
        .mediate = true,
        .reload = reload,
        .check = check,
        .idle_exit_usec = getenv("FIXTURE_IDLE") ? 200000 : 0,
    };
    _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
    uint64_t count;
    int r;

    r = hybus_daemon_new(&info, argc, argv, &daemon);
    if (r <= 0)
        return hybus_daemon_exit_status(r);
    count = ((const Settings *)hybus_daemon_settings(daemon))->count;
    r = hybus_daemon_connect(daemon);
    if (r < 0)
        return hybus_daemon_exit_status(r);
    r = sd_bus_add_object_vtable(hybus_daemon_bus(daemon), NULL, "/org/hybridos/Fixture1",
                                 "org.hybridos.Fixture1", vtable, &count);
    if (r < 0)
        return hybus_daemon_exit_status(hybus_log_errno(LOG_ERR, r, "Cannot publish"));
    return hybus_daemon_exit_status(hybus_daemon_run(daemon, &count));
}
