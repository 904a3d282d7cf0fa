/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Policy files to policy and back (docs/policy.md). */

#include <hybus/config.h>

#include "policy.h"

/* What somebody should look at although the files were accepted. */
typedef struct PolicyNotes {
    char **warnings;    /* names that match nobody */
    char **masked;      /* files of a package that another file replaces or masks */
    char **development; /* names of development drop-ins in force */
} PolicyNotes;

void policy_notes_done(PolicyNotes *notes);
/* Names the development drop-ins that rules in force come from. */
int policy_note_development(const Policy *p, PolicyNotes *notes);

/* Judges an opened file: regular, of root or of ourselves, writable by nobody else, in a directory of
 * which the same holds. A hybus_config_file_check. */
int policy_file_check(int fd, const char *path, hybus_config_error *e);

/* Everything or nothing. -EBADMSG and `e` when a file is not as it must be. */
int policy_read_directories(const char *const *directories, Policy **ret, PolicyNotes *notes,
                            hybus_config_error *e);
int policy_from_config(const hybus_config *c, Policy **ret, PolicyNotes *notes,
                       hybus_config_error *e);
int policy_parse(const char *name, const char *text, size_t size, Policy **ret,
                 PolicyNotes *notes, hybus_config_error *e);

/* One rule out of words, as Grant gets them. -EINVAL with a message in `e`. */
int rule_new(RuleKind kind, const char *id, const char *to, const char *permissions,
             const char *when, Rule **ret, hybus_config_error *e);

/* The rule as a section of a policy file. With `position`, it remembers where it came from. */
char *rule_format(const Rule *rule, bool position);
