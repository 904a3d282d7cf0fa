/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The policy and the interfaces that were accepted last, with a checksum, for a boot at which the
 * files cannot be read. Half written or damaged it counts as missing. */

#include "catalogue.h"
#include "policy.h"

#define ACCEPTED_MAX (64u * 1024u * 1024u)

/* -ENOENT: none; -EBADMSG: damaged. */
int accepted_load(const char *directory, Policy **ret_policy, Catalogue **ret_catalogue);
int accepted_save(const char *directory, const Policy *policy, const Catalogue *catalogue);
