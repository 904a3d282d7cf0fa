/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static double percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? rounded(100.0 * (double)part / (double)whole) : 0.0;
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

/* The board, as its firmware names it. */
static void add_model(const struct status *s, json_t *o)
{
    static const char *const files[] = {"/sys/firmware/devicetree/base/model",
                                        "/sys/class/dmi/id/product_name"};
    char line[128];

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        _cleanup_(closefp) FILE *f = open_file(s, "%s", files[i]);
        if (!f || !fgets(line, sizeof(line), f))
            continue;
        line[strcspn(line, "\n")] = '\0';
        json_t *model = line[0] ? json_string(line) : NULL; /* NULL too when it is not UTF-8 */
        if (model) {
            json_object_set_new(o, "model", model);
            return;
        }
    }
}

static void add_system(const struct status *s, json_t *o)
{
    struct utsname u;
    char line[512];
    bool known = uname(&u) == 0;

    if (known)
        json_object_set_new(o, "hostname", json_string(u.nodename));
    add_model(s, o);
    _cleanup_(closefp) FILE *f = open_file(s, "/etc/os-release");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "PRETTY_NAME=", 12) == 0) {
            char *name = line + 12 + (line[12] == '"');
            name[strcspn(name, "\"\n")] = '\0';
            json_object_set_new(o, "os", json_string(name));
        }
    if (known) {
        json_object_set_new(o, "kernel", json_string(u.release));
        json_object_set_new(o, "architecture", json_string(u.machine));
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
    bool sane = total > s->cpu_total && busy >= s->cpu_busy && d_busy <= d_total;
    s->cpu_total = total;
    s->cpu_busy = busy;
    json_object_set_new(
        o, "cpu",
        json_pack("{sisf}", "cores", (int)cores, "percent", sane ? percent(d_busy, d_total) : 0.0));
}

static void add_memory(const struct status *s, json_t *o)
{
    static const char *const names[][2] = {
        {"MemTotal", "total"},       {"MemAvailable", "available"}, {"Cached", "cached"},
        {"SwapTotal", "swap-total"}, {"SwapFree", "swap-free"},
    };
    char line[256], name[64];
    uint64_t kib, total = 0, available = 0;

    _cleanup_(closefp) FILE *f = open_file(s, "/proc/meminfo");
    if (!f)
        return;
    json_t *memory = json_object();
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "%63[^:]: %" SCNu64, name, &kib) == 2)
            for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
                if (strcmp(name, names[i][0]) == 0) {
                    json_object_set_new(memory, names[i][1], number(kib * 1024));
                    total = i == 0 ? kib : total;
                    available = i == 1 ? kib : available;
                }
    if (total >= available) {
        json_object_set_new(memory, "used", number((total - available) * 1024));
        json_object_set_new(memory, "percent", json_real(percent(total - available, total)));
    }
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

/* Not a single file that a sandbox mounted upon another, nor what a container shares with the machine
 * below it. */
static bool is_own(const char *mount, const char *path)
{
    struct stat st;
    return strncmp(mount, "/run/host/", 10) != 0 && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static json_t *disk_row(const char *mount, const char *type, const struct statvfs *v)
{
    uint64_t used = v->f_blocks - v->f_bfree;

    /* As df: what is kept for root counts neither as used nor as free. */
    return json_pack(
        "{ssssso so so sf}", "mount", mount, "type", type, "size",
        number((uint64_t)v->f_blocks * v->f_frsize), "used", number(used * v->f_frsize), "free",
        number((uint64_t)v->f_bavail * v->f_frsize), "percent", percent(used, used + v->f_bavail));
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
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s%s", s->root, mount);
        if (!is_own(mount, path) || statvfs(path, &v) < 0 || v.f_blocks == 0)
            continue;
        /* A sandbox mounts parts of a disk again: the first one stands for it. */
        json_object_set_new(seen, device, json_true());
        json_array_append_new(disks, disk_row(mount, type, &v));
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

/* The file of a service's control group: in the one tree, or beside the old ones (systemd's
 * "hybrid" layout), where only some figures exist. */
static FILE *open_group(const struct status *s, const char *unit, const char *file)
{
    FILE *f = open_file(s, "/sys/fs/cgroup/system.slice/%s/%s", unit, file);
    return f ? f : open_file(s, "/sys/fs/cgroup/unified/system.slice/%s/%s", unit, file);
}

static void add_tasks(const struct status *s, const char *unit, json_t *row)
{
    uint64_t n = 0;
    int c;

    _cleanup_(closefp) FILE *f = open_group(s, unit, "cgroup.threads");
    if (!f)
        return;
    while ((c = fgetc(f)) != EOF)
        n += c == '\n';
    json_object_set_new(row, "tasks", number(n));
}

static void add_group(const struct status *s, const char *unit, json_t *row)
{
    uint64_t value;

    add_tasks(s, unit, row);
    _cleanup_(closefp) FILE *memory = open_group(s, unit, "memory.current");
    if (memory && fscanf(memory, "%" SCNu64, &value) == 1)
        json_object_set_new(row, "memory", number(value));
    _cleanup_(closefp) FILE *cpu = open_group(s, unit, "cpu.stat");
    if (cpu && fscanf(cpu, "usage_usec %" SCNu64, &value) == 1)
        json_object_set_new(row, "cpu-seconds", json_real((double)(value / 10000) / 100));
}

static void add_units(const struct status *s, json_t *o, const json_t *units)
{
    json_t *rows = json_array(), *failed = json_array(), *unit;
    size_t i;

    json_array_foreach((json_t *)units, i, unit)
    {
        const char *name = json_string_value(json_object_get(unit, "name"));
        json_t *row = json_copy(unit);
        if (strcmp(json_string_value(json_object_get(unit, "state")), "failed") == 0)
            json_array_append(failed, json_object_get(unit, "name"));
        else if (!strchr(name, '/'))
            add_group(s, name, row);
        json_array_append_new(rows, row);
    }
    json_object_set_new(o, "units", rows);
    json_object_set_new(o, "failed", failed);
}

json_t *status_sample(struct status *s, const json_t *units)
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
    if (units)
        add_units(s, o, units);
    return o;
}
