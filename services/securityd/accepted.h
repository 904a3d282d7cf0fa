/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The policy and the interfaces that were accepted last, with a checksum, for a boot at which the
 * files cannot be read. Half written or damaged it counts as missing. */

#include "catalogue.h"
#include "policy.h"

#define ACCEPTED_MAX (64u * 1024u * 1024u)

/* When that was: which change since the device was made, and the time then (0: from before these
 * were kept). It stands here and not in the database, so that a change of policy is one file and
 * not two. */
typedef struct AcceptedMark {
    uint64_t generation, time_usec;
} AcceptedMark;

/* -ENOENT: none; -EBADMSG: damaged. */
int accepted_load(const char *directory, Policy **ret_policy, Catalogue **ret_catalogue,
                  AcceptedMark *ret_mark);
int accepted_save(const char *directory, const Policy *policy, const Catalogue *catalogue,
                  const AcceptedMark *mark);
