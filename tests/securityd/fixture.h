/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A folder with everything that h-securityd reads and writes, for tests of the model and of what
 * stands on it. All functions fail the test on trouble. */

#include "security.h"

typedef struct Fixture {
    char directory[64];
    char paths[7][96]; /* see the settings */
    char *policy_directories[4], *vendor[2], *administrator[2];
    SecuritySettings settings;
    Security *security;
} Fixture;

/* The directories, with a policy of the vendor in which root holds "*". */
Fixture *fixture_new(void);
void fixture_free(Fixture *f);

/* Starts the agent's model; again: as after a restart. */
void fixture_open(Fixture *f);
void fixture_close(Fixture *f);

/* Replaces a file; `directory` is one of the settings. */
void fixture_write(const char *directory, const char *name, const char *text);
void fixture_remove(const char *directory, const char *name);
bool fixture_has(const char *directory, const char *name);
/* *ret_size may be NULL; the result is for free(). */
char *fixture_read(const char *directory, const char *name, size_t *ret_size);

extern const Subject fixture_root;
Subject fixture_uid(uint32_t uid);
bool fixture_allows(Fixture *f, Subject subject, const char *permission);

/* The newest record of this verdict; NULL: none. */
const AuditRecord *fixture_record(Fixture *f, const char *verdict);
