/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The one configuration syntax of all daemons, and of policy files:
 *
 *     # comment (also ;)          whole lines only
 *     [section optional-argument]
 *     Key = value                 a value ends at the line end; a trailing \ continues it
 *
 * Files of one configuration are merged with systemd's precedence: of two files with the same name
 * the one in the directory named first wins (/etc over /run over /usr/lib; a link to /dev/null or
 * an empty file masks), then all are read in the order of their names, later settings winning.
 * Limits: 1 MiB a file, 64 KiB a line, 1024 files. NUL bytes and invalid UTF-8 are errors. */

#include "base.h"

typedef struct hybus_config hybus_config;

/* Where something stands; columns and lines count from 1, columns in bytes. */
typedef struct hybus_config_position {
    const char *file; /* valid as long as the hybus_config */
    unsigned line, column;
} hybus_config_position;

typedef struct hybus_config_entry {
    const char *key, *value; /* value is trimmed, never NULL */
    hybus_config_position at, value_at;
} hybus_config_entry;

typedef struct hybus_config_section {
    const char *name, *argument; /* argument is "" when missing */
    hybus_config_position at;
    const hybus_config_entry *entries;
    size_t n_entries;
} hybus_config_section;

/* An error with its place: "file:line:column: message". `message` is allocated. */
typedef struct hybus_config_error {
    char *message;
} hybus_config_error;

HYBUS_EXPORT void hybus_config_error_done(hybus_config_error *e);
HYBUS_EXPORT int hybus_config_error_set(hybus_config_error *e, const hybus_config_position *at,
                                        const char *format, ...) _printf_(3, 4);

HYBUS_EXPORT int hybus_config_new(hybus_config **ret);
HYBUS_EXPORT void hybus_config_free(hybus_config *c);
HYBUS_DEFINE_CLEANUP(hybus_config, hybus_config_free)

/* Parses text that is already in memory; `name` is used in positions. -EBADMSG: bad syntax, see
 * `e`; nothing has been added then. */
HYBUS_EXPORT int hybus_config_parse(hybus_config *c, const char *name, const char *text,
                                    size_t size, hybus_config_error *e);

/* Optional judge of each opened file (ownership, mode). A negative return rejects everything. */
typedef int (*hybus_config_file_check)(int fd, const char *path, hybus_config_error *e);

/* Reads one file. -ENOENT when it does not exist. */
HYBUS_EXPORT int hybus_config_read_file(hybus_config *c, const char *path,
                                        hybus_config_file_check check, hybus_config_error *e);

/* Reads all `suffix` files of `directories` (a NULL-terminated array, highest precedence first). */
HYBUS_EXPORT int hybus_config_read_directories(hybus_config *c, const char *const *directories,
                                               const char *suffix, hybus_config_file_check check,
                                               hybus_config_error *e);

/* All sections in reading order. */
HYBUS_EXPORT size_t hybus_config_sections(const hybus_config *c, const hybus_config_section **ret);

/* A file that was not read because one of the same name in an earlier directory replaces or masks
 * it. */
typedef struct hybus_config_shadow {
    const char *file, *by;
} hybus_config_shadow;
HYBUS_EXPORT size_t hybus_config_shadows(const hybus_config *c, const hybus_config_shadow **ret);

/* Daemon settings: a table of what exists, with type, range and default. A daemon's configuration
 * is <component>.conf and <component>.conf.d/ *.conf under /etc/hybridos, /run/hybridos/config and
 * /usr/lib/hybridos. An unknown section or key is an error that names the nearest known one. */
typedef enum hybus_setting_type {
    HYBUS_SETTING_BOOL,    /* bool */
    HYBUS_SETTING_UINT,    /* uint64_t, plain number */
    HYBUS_SETTING_BYTES,   /* uint64_t, suffixes K M G (powers of 1024) */
    HYBUS_SETTING_SECONDS, /* uint64_t microseconds; suffixes ms s min h d, plain = seconds */
    HYBUS_SETTING_STRING,  /* char *, allocated */
    HYBUS_SETTING_STRINGS, /* char **, NULL-terminated, allocated; space separated; the first in
                            * the files replaces the default, later ones append, an empty value
                            * clears the list */
} hybus_setting_type;

typedef struct hybus_setting {
    const char *section, *key;
    hybus_setting_type type;
    size_t offset;             /* of the field in the daemon's settings struct */
    const char *default_value; /* in file syntax */
    uint64_t min, max;         /* for numbers; max 0 = no bound */
} hybus_setting;

/* Fills `settings` (zeroed by the caller) from defaults and `c`; on error nothing is kept. The table
 * ends with an element whose key is NULL. */
HYBUS_EXPORT int hybus_settings_load(const hybus_setting *table, const hybus_config *c,
                                     void *settings, hybus_config_error *e);
HYBUS_EXPORT void hybus_settings_done(const hybus_setting *table, void *settings);
