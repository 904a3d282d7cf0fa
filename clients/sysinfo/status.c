/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "status.h"

#define ROWS_MAX 256u /* of disks, interfaces, units: a page stays a page */

#define _cleanup_(f) __attribute__((cleanup(f)))

static void closefp(FILE **f)
{
    if (*f)
        fclose(*f);
}

__attribute__((format(printf, 2, 3))) static FILE *open_file(const struct status *s,
                                                             const char *format, ...)
{
    char relative[PATH_MAX], path[PATH_MAX];
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(relative, sizeof(relative), format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(relative))
        return NULL;
    n = snprintf(path, sizeof(path), "%s%s", s->root, relative);
    return n < 0 || (size_t)n >= sizeof(path) ? NULL : fopen(path, "re");
}

static json_t *number(uint64_t n)
{
    return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static double rounded(double v)
{
    return (double)(long long)(v * 10 + 0.5) / 10;
}

/* The first word or number of a small file. */
__attribute__((format(printf, 3, 4))) static bool read_word(const struct status *s, char word[64],
                                                            const char *format, ...)
{
    char path[PATH_MAX];
    va_list ap;

    va_start(ap, format);
    int n = vsnprintf(path, sizeof(path), format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(path))
        return false;
    _cleanup_(closefp) FILE *f = open_file(s, "%s", path);
    return f && fscanf(f, "%63s", word) == 1;
}

static void add_system(const struct status *s, json_t *o)
{
    struct utsname u;
    char line[512];

    if (uname(&u) == 0) {
        json_object_set_new(o, "hostname", json_string(u.nodename));
        json_object_set_new(o, "kernel", json_string(u.release));
    }
    _cleanup_(closefp) FILE *f = open_file(s, "/etc/os-release");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "PRETTY_NAME=", 12) == 0) {
            char *name = line + 12 + (line[12] == '"');
            name[strcspn(name, "\"\n")] = '\0';
            json_object_set_new(o, "os", json_string(name));
        }
    json_object_set_new(o, "time", json_integer(time(NULL)));
}

static void add_uptime(const struct status *s, json_t *o)
{
    double uptime, load[3];

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/uptime");
    if (f && fscanf(f, "%lf", &uptime) == 1)
        json_object_set_new(o, "uptime", json_integer((json_int_t)uptime));
    _cleanup_(closefp) FILE *l = open_file(s, "/proc/loadavg");
    if (l && fscanf(l, "%lf %lf %lf", &load[0], &load[1], &load[2]) == 3)
        json_object_set_new(o, "load", json_pack("[fff]", load[0], load[1], load[2]));
}

static void add_cpu(struct status *s, json_t *o)
{
    char line[1024];
    uint64_t t[8] = {0}, total = 0;
    unsigned cores = 0;

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/stat");
    if (!f)
        return;
    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, "cpu ", 4) == 0)
            sscanf(line + 4,
                   "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                   " %" SCNu64 " %" SCNu64,
                   &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]);
        else if (strncmp(line, "cpu", 3) == 0)
            cores++;
    }
    for (unsigned i = 0; i < 8; i++)
        total += t[i];
    uint64_t busy = total - t[3] - t[4]; /* all but idle and waiting for disks */
    uint64_t d_total = total - s->cpu_total, d_busy = busy - s->cpu_busy;
    /* The counters of idle time may step back a little. */
    double percent = total > s->cpu_total && busy >= s->cpu_busy && d_busy <= d_total
                         ? 100.0 * (double)d_busy / (double)d_total
                         : 0.0;
    s->cpu_total = total;
    s->cpu_busy = busy;
    json_object_set_new(o, "cpu",
                        json_pack("{sisf}", "cores", (int)cores, "percent", rounded(percent)));
}

static void add_memory(const struct status *s, json_t *o)
{
    static const char *const names[][2] = {
        {"MemTotal", "total"},       {"MemAvailable", "available"}, {"Cached", "cached"},
        {"SwapTotal", "swap-total"}, {"SwapFree", "swap-free"},
    };
    char line[256], name[64];
    uint64_t kib;

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/meminfo");
    if (!f)
        return;
    json_t *memory = json_object();
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "%63[^:]: %" SCNu64, name, &kib) == 2)
            for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
                if (strcmp(name, names[i][0]) == 0)
                    json_object_set_new(memory, names[i][1], number(kib * 1024));
    json_object_set_new(o, "memory", memory);
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *p)
{
    char *to = p;
    for (; *p; to++)
        if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] && p[3]) {
            *to = (char)((p[1] - '0') << 6 | (p[2] - '0') << 3 | (p[3] - '0'));
            p += 4;
        } else {
            *to = *p++;
        }
    *to = '\0';
}

static bool is_disk(const char *type)
{
    static const char *const disks[] = {"ext2",    "ext3",     "ext4", "btrfs",   "xfs",   "f2fs",
                                        "vfat",    "exfat",    "ntfs", "zfs",     "ubifs", "jffs2",
                                        "overlay", "bcachefs", "9p",   "virtiofs"};
    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++)
        if (strcmp(type, disks[i]) == 0)
            return true;
    return false;
}

static bool has_device(const json_t *seen, const char *device)
{
    return json_object_get(seen, device);
}

static void add_disks(const struct status *s, json_t *o)
{
    char line[4096], device[32], mount[1024], type[64];

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/self/mountinfo");
    if (!f)
        return;
    json_t *disks = json_array(), *seen = json_object();
    while (fgets(line, sizeof(line), f) && json_array_size(disks) < ROWS_MAX) {
        struct statvfs v;
        const char *tail = strstr(line, " - ");
        if (!tail || sscanf(line, "%*s %*s %31s %*s %1023s", device, mount) != 2 ||
            sscanf(tail + 3, "%63s", type) != 1 || !is_disk(type) || has_device(seen, device))
            continue;
        unescape(mount);
        /* A sandbox mounts files and directories of its own on top: only whole disks count. */
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s%s", s->root, mount);
        if (statvfs(path, &v) < 0 || v.f_blocks == 0)
            continue;
        json_object_set_new(seen, device, json_true());
        json_array_append_new(disks,
                              json_pack("{ssssso so so}", "mount", mount, "type", type, "size",
                                        number((uint64_t)v.f_blocks * v.f_frsize), "used",
                                        number((uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize),
                                        "free", number((uint64_t)v.f_bavail * v.f_frsize)));
    }
    json_decref(seen);
    json_object_set_new(o, "disks", disks);
}

static void add_network(const struct status *s, json_t *o)
{
    char line[512], name[64], state[64];
    uint64_t rx, tx;

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/net/dev");
    if (!f)
        return;
    json_t *network = json_array();
    while (fgets(line, sizeof(line), f) && json_array_size(network) < ROWS_MAX) {
        if (sscanf(line, " %63[^: ]: %" SCNu64 " %*u %*u %*u %*u %*u %*u %*u %" SCNu64, name, &rx,
                   &tx) != 3)
            continue;
        if (!read_word(s, state, "/sys/class/net/%s/operstate", name))
            strcpy(state, "unknown");
        json_array_append_new(network, json_pack("{ssssso so}", "name", name, "state", state,
                                                 "received", number(rx), "sent", number(tx)));
    }
    json_object_set_new(o, "network", network);
}

static uint64_t read_number(const struct status *s, const char *unit, const char *file)
{
    char word[64];
    return read_word(s, word, "/sys/fs/cgroup/system.slice/%s/%s", unit, file)
               ? strtoull(word, NULL, 10)
               : 0;
}

static uint64_t read_cpu_usec(const struct status *s, const char *unit)
{
    uint64_t usec = 0;
    _cleanup_(closefp) FILE *f = open_file(s, "/sys/fs/cgroup/system.slice/%s/cpu.stat", unit);
    if (f && fscanf(f, "usage_usec %" SCNu64, &usec) != 1)
        usec = 0;
    return usec;
}

static int compare(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_service(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return n > 8 && strcmp(d->d_name + n - 8, ".service") == 0;
}

static void add_units(const struct status *s, json_t *o)
{
    char path[PATH_MAX];
    struct dirent **list;

    snprintf(path, sizeof(path), "%s/sys/fs/cgroup/system.slice", s->root);
    int n = scandir(path, &list, is_service, compare);
    if (n < 0)
        return;
    json_t *units = json_array();
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        uint64_t tasks = read_number(s, name, "pids.current");
        if (tasks > 0 && json_array_size(units) < ROWS_MAX)
            json_array_append_new(
                units, json_pack("{ssso so sf}", "name", name, "tasks", number(tasks), "memory",
                                 number(read_number(s, name, "memory.current")), "cpu-seconds",
                                 rounded((double)read_cpu_usec(s, name) / 1e6)));
        free(list[i]);
    }
    free(list);
    json_object_set_new(o, "units", units);
}

json_t *status_sample(struct status *s)
{
    json_t *o = json_object();
    if (!o)
        return NULL;
    add_system(s, o);
    add_uptime(s, o);
    add_cpu(s, o);
    add_memory(s, o);
    add_disks(s, o);
    add_network(s, o);
    add_units(s, o);
    return o;
}
