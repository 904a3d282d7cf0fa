/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The shared page: one memfd written by h-securityd only, mapped read-only by everyone who judges
 * calls (sealed with F_SEAL_FUTURE_WRITE|SHRINK|GROW|SEAL, checked by the reader). It lets a filter
 * learn without a system call that a cached decision is no longer good:
 *
 *   liveness    the agent's thread id, on that thread's robust-futex list. When the agent dies for
 *               whatever reason the kernel sets FUTEX_OWNER_DIED, so a dead agent cannot be mistaken
 *               for a slow one (set_robust_list(2)). The list entry is private memory of the agent:
 *               no pointer is ever in the page.
 *   epoch       random, one per start of the agent; rows of another epoch are void.
 *   generation  counts policy changes. Each subject hashes to a slot whose own counter moves when a
 *               change touches a subject of that slot; `slots` moving for a stranger costs a fetch,
 *               never a wrong answer.
 *
 * Writers publish tables first, then store the counters with release; readers load with acquire. */

#include <stdatomic.h>

#include "base.h"

#define HYBUS_PAGE_MAGIC 0x50534248u /* "HBSP" */
#define HYBUS_PAGE_VERSION 1u
#define HYBUS_PAGE_SLOTS 1008u

typedef struct hybus_page {
    uint32_t magic, version;
    uint64_t epoch;
    _Atomic uint32_t liveness;
    uint32_t n_slots;
    _Atomic uint64_t generation; /* of the whole policy */
    uint64_t reserved[12];
    _Atomic uint64_t slots[HYBUS_PAGE_SLOTS];
} hybus_page;

_Static_assert(sizeof(hybus_page) <= 8192, "the page stays at two memory pages");

/* Reader. Verifies size, seals, magic and version of `fd` (not taken over). */
HYBUS_EXPORT int hybus_page_map(int fd, const hybus_page **ret);
HYBUS_EXPORT void hybus_page_unmap(const hybus_page *page);
HYBUS_EXPORT bool hybus_page_alive(const hybus_page *page);

static inline uint64_t hybus_page_slot(const hybus_page *page, uint32_t slot)
{
    return atomic_load_explicit(&page->slots[slot % HYBUS_PAGE_SLOTS], memory_order_acquire);
}

/* Writer (h-securityd and the fake agent of tests). */
typedef struct hybus_page_writer hybus_page_writer;

HYBUS_EXPORT int hybus_page_writer_new(hybus_page_writer **ret);
HYBUS_EXPORT void hybus_page_writer_free(hybus_page_writer *w);
HYBUS_DEFINE_CLEANUP(hybus_page_writer, hybus_page_writer_free)
HYBUS_EXPORT int hybus_page_writer_fd(hybus_page_writer *w); /* sealed; dup it to send it */
HYBUS_EXPORT uint64_t hybus_page_writer_epoch(hybus_page_writer *w);
HYBUS_EXPORT uint64_t hybus_page_writer_generation(hybus_page_writer *w);
HYBUS_EXPORT uint64_t hybus_page_writer_slot(hybus_page_writer *w, uint32_t slot);
/* Moves one slot and the generation; `slot` UINT32_MAX moves all. Returns the new generation. */
HYBUS_EXPORT uint64_t hybus_page_writer_bump(hybus_page_writer *w, uint32_t slot);
