/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-apply.h"

#include <dirent.h>
#include <fcntl.h>
#include <hybus/call.h>
#include <hybus/log.h>
#include <pwd.h>
#include <sys/random.h>

#include "state-file.h"

#define DRIVER "org.freedesktop.DBus"
#define DRIVER_PATH "/org/freedesktop/DBus"
#define CALL_USEC (30u * 1000u * 1000u) /* a bus with 100,000 rules takes about a second */
#define NAME_DO_NOT_QUEUE 4u
#define NAME_PRIMARY_OWNER 1u
#define PREFIX "hybridos-"
#define SUFFIX ".conf"
#define FILE_NAME_SIZE 48

struct BusApply {
    sd_bus *bus;
    char *directory, *owner;
    uint64_t random; /* of this process: names of earlier ones prove nothing */
    unsigned attempt;
    sd_event_source *defer; /* tells of a failure that came at once */
    sd_bus_slot *slot;
    size_t n_files, proven;
    int result;
    char message[256];
    BusApplied f;
    void *userdata;
};

static int user_name(char **ret)
{
    const struct passwd *pw = getpwuid(geteuid());

    if (!pw)
        return -ENXIO;
    return (*ret = strdup(pw->pw_name)) ? 0 : -ENOMEM;
}

int bus_apply_new(sd_bus *bus, const char *directory, BusApply **ret)
{
    _cleanup_(bus_apply_freep) BusApply *a = calloc(1, sizeof *a);
    int r;

    if (!a)
        return -ENOMEM;
    a->bus = sd_bus_ref(bus);
    a->directory = strdup(directory);
    if (!a->directory)
        return -ENOMEM;
    r = user_name(&a->owner);
    if (r < 0)
        return r;
    if (getrandom(&a->random, sizeof a->random, 0) != sizeof a->random)
        return -EIO;
    *ret = TAKE_PTR(a);
    return 0;
}

void bus_apply_free(BusApply *a)
{
    if (!a)
        return;
    sd_bus_slot_unref(a->slot);
    sd_event_source_disable_unref(a->defer);
    sd_bus_unref(a->bus);
    free(a->directory);
    free(a->owner);
    free(a);
}

static void _printf_(3, 4) end(BusApply *a, int result, const char *format, ...)
{
    BusApplied f = TAKE_PTR(a->f);
    va_list args;

    va_start(args, format);
    vsnprintf(a->message, sizeof a->message, format, args);
    va_end(args);
    a->slot = sd_bus_slot_unref(a->slot);
    f(result, a->message, a->userdata);
}

/* --- files ----------------------------------------------------------------------------------- */

static void canary_name(const BusApply *a, size_t file, char *ret, size_t size)
{
    snprintf(ret, size, "org.hybridos.Security1.Rules.x%016llx.n%u.f%zu",
             (unsigned long long)a->random, a->attempt, file);
}

static int write_files(BusApply *a, const BusRules *rules)
{
    int r = 0;

    for (size_t i = 0; i < rules->n_bodies && r >= 0; i++) {
        char canary[128], name[FILE_NAME_SIZE];
        _cleanup_(freep) char *text = NULL;

        canary_name(a, i, canary, sizeof canary);
        snprintf(name, sizeof name, PREFIX "%zu" SUFFIX, i);
        text = bus_rules_file(rules->bodies[i], canary, a->owner);
        r = text ? write_file_atomically(a->directory, name, text, strlen(text), 0644) : -ENOMEM;
    }
    return r;
}

/* Those of an earlier, larger set. */
static int remove_surplus(BusApply *a, size_t n_files)
{
    _cleanup_(closep) int dir = open(a->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = 0;

    if (dir < 0)
        return -errno;
    for (size_t i = n_files; i < BUS_RULES_FILES_MAX; i++) {
        char name[FILE_NAME_SIZE];

        snprintf(name, sizeof name, PREFIX "%zu" SUFFIX, i);
        if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
            result = -errno;
    }
    return result;
}

/* --- the bus --------------------------------------------------------------------------------- */

static int request_next(BusApply *a);

static void on_released(sd_bus_message *m, int error, void *userdata)
{
    BusApply *a = userdata;

    /* Whether it could be given back proves nothing; nobody else can own it. */
    a->slot = sd_bus_slot_unref(a->slot);
    if (++a->proven == a->n_files)
        end(a, 0, "in force");
    else if (request_next(a) < 0)
        end(a, -ENOTCONN, "the bus is away");
}

static void on_requested(sd_bus_message *m, int error, void *userdata)
{
    BusApply *a = userdata;
    char canary[128];
    uint32_t answer = 0;
    int r = error < 0 ? error : sd_bus_message_read(m, "u", &answer);

    a->slot = sd_bus_slot_unref(a->slot);
    if (r < 0 || answer != NAME_PRIMARY_OWNER) {
        end(a, -EPROTO,
            "the bus reloaded, but does not obey %s/" PREFIX "%zu" SUFFIX
            ": look for broken files in its log (journalctl -u dbus)",
            a->directory, a->proven);
        return;
    }
    canary_name(a, a->proven, canary, sizeof canary);
    r = hybus_call_method(a->bus, DRIVER, DRIVER_PATH, DRIVER, "ReleaseName", on_released, a,
                          &a->slot, "s", canary);
    if (r < 0)
        end(a, r, "the bus is away");
}

static int request_next(BusApply *a)
{
    char canary[128];

    canary_name(a, a->proven, canary, sizeof canary);
    return hybus_call_method(a->bus, DRIVER, DRIVER_PATH, DRIVER, "RequestName", on_requested, a,
                             &a->slot, "su", canary, NAME_DO_NOT_QUEUE);
}

static void on_reloaded(sd_bus_message *m, int error, void *userdata)
{
    BusApply *a = userdata;

    a->slot = sd_bus_slot_unref(a->slot);
    if (error < 0)
        end(a, error,
            "the bus does not reload its configuration: %s (its log says why: journalctl -u dbus)",
            sd_bus_message_get_error(m)->message);
    else if (request_next(a) < 0)
        end(a, -ENOTCONN, "the bus is away");
}

static int reload(BusApply *a)
{
    sd_bus_message *m;
    int r = sd_bus_message_new_method_call(a->bus, &m, DRIVER, DRIVER_PATH, DRIVER, "ReloadConfig");

    if (r < 0)
        return r;
    r = hybus_call_send(m, CALL_USEC, on_reloaded, a, &a->slot);
    sd_bus_message_unref(m);
    return r;
}

static int on_defer(sd_event_source *s, void *userdata)
{
    BusApply *a = userdata;

    end(a, a->result, "cannot write bus rules in %s: %s", a->directory, strerror(-a->result));
    return 0;
}

static int fail_later(BusApply *a, int result)
{
    a->result = result;
    if (a->defer)
        return sd_event_source_set_enabled(a->defer, SD_EVENT_ONESHOT);
    return sd_event_add_defer(sd_bus_get_event(a->bus), &a->defer, on_defer, a);
}

int bus_apply_start(BusApply *a, const BusRules *rules, BusApplied f, void *userdata)
{
    int r;

    if (a->f)
        return -EBUSY;
    a->attempt++;
    a->n_files = rules->n_bodies;
    a->proven = 0;
    r = write_files(a, rules);
    if (r >= 0)
        r = remove_surplus(a, rules->n_bodies);
    if (r >= 0)
        r = reload(a);
    if (r < 0)
        r = fail_later(a, r);
    if (r < 0)
        return r;
    a->f = f;
    a->userdata = userdata;
    return 0;
}
