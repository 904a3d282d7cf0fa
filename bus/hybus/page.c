/* SPDX-License-Identifier: Apache-2.0 */
#include "page.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define SEALS (F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* --- reader ---------------------------------------------------------------------------------- */

int hybus_page_map(int fd, const hybus_page **ret)
{
    const hybus_page *page;
    struct stat st;
    int seals;

    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -errno;
    if ((seals & SEALS) != SEALS) /* it could shrink under us, or others could write it */
        return -EPERM;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size != sizeof(hybus_page))
        return -EPROTO;
    page = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        return -errno;
    if (page->magic != HYBUS_PAGE_MAGIC || page->version != HYBUS_PAGE_VERSION ||
        page->n_slots != HYBUS_PAGE_SLOTS || page->epoch == 0) {
        hybus_page_unmap(page);
        return -EPROTO;
    }
    *ret = page;
    return 0;
}

void hybus_page_unmap(const hybus_page *page)
{
    if (page)
        (void)munmap((void *)page, sizeof *page);
}

bool hybus_page_alive(const hybus_page *page)
{
    uint32_t word = atomic_load_explicit(&page->liveness, memory_order_acquire);
    return (word & FUTEX_TID_MASK) != 0 && !(word & FUTEX_OWNER_DIED);
}

/* --- writer ---------------------------------------------------------------------------------- */

struct hybus_page_writer {
    hybus_page *page;
    int fd;
    struct robust_list_head *previous; /* of this thread, glibc's own */
    bool watched;
};

/* What the kernel walks when the thread ends (set_robust_list(2)). One per process and never freed:
 * the kernel holds its address. The word of an entry lies at entry + futex_offset, and that offset
 * may well lead from this private memory into the shared page, so that no pointer of ours, which a
 * reader could learn from, is ever in the page.
 *
 * This takes the place of glibc's list in this thread: robust mutexes locked by it are not released
 * when it dies. h-securityd has none. */
static struct {
    struct robust_list entry;
    struct robust_list_head head;
    bool used;
} robust;

static int watch_liveness(hybus_page_writer *w)
{
    size_t size;

    if (robust.used)
        return -EBUSY;
    if (syscall(SYS_get_robust_list, 0, &w->previous, &size) < 0)
        return -errno;
    robust.entry.next = &robust.head.list;
    robust.head.list.next = &robust.entry;
    robust.head.futex_offset = (long)((intptr_t)&w->page->liveness - (intptr_t)&robust.entry);
    robust.head.list_op_pending = NULL;
    atomic_store_explicit(&w->page->liveness, (uint32_t)gettid(), memory_order_release);
    if (syscall(SYS_set_robust_list, &robust.head, sizeof robust.head) < 0)
        return -errno;
    robust.used = w->watched = true;
    return 0;
}

static int fill(hybus_page *page)
{
    page->magic = HYBUS_PAGE_MAGIC;
    page->version = HYBUS_PAGE_VERSION;
    page->n_slots = HYBUS_PAGE_SLOTS;
    while (page->epoch == 0)
        if (getrandom(&page->epoch, sizeof page->epoch, 0) != sizeof page->epoch)
            return -EIO;
    atomic_store(&page->generation, 1);
    for (size_t i = 0; i < HYBUS_PAGE_SLOTS; i++)
        atomic_store(&page->slots[i], 1);
    return 0;
}

int hybus_page_writer_new(hybus_page_writer **ret)
{
    _cleanup_(hybus_page_writer_freep) hybus_page_writer *w = calloc(1, sizeof *w);
    void *p;
    int r;

    if (!w)
        return -ENOMEM;
    w->fd = memfd_create("hybridos-policy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (w->fd < 0)
        return -errno;
    if (ftruncate(w->fd, sizeof(hybus_page)) < 0)
        return -errno;
    p = mmap(NULL, sizeof(hybus_page), PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    w->page = p;
    r = fill(w->page);
    if (r < 0)
        return r;
    r = watch_liveness(w);
    if (r < 0)
        return r;
    /* From here on only the mapping that exists can write. */
    if (fcntl(w->fd, F_ADD_SEALS, SEALS) < 0)
        return -errno;
    *ret = TAKE_PTR(w);
    return 0;
}

void hybus_page_writer_free(hybus_page_writer *w)
{
    if (!w)
        return;
    if (w->watched) {
        (void)atomic_fetch_or(&w->page->liveness, FUTEX_OWNER_DIED);
        (void)syscall(SYS_set_robust_list, w->previous, sizeof *w->previous);
        robust.used = false;
    }
    if (w->page)
        (void)munmap(w->page, sizeof *w->page);
    safe_close(w->fd);
    free(w);
}

int hybus_page_writer_fd(hybus_page_writer *w)
{
    return w->fd;
}

uint64_t hybus_page_writer_epoch(hybus_page_writer *w)
{
    return w->page->epoch;
}

uint64_t hybus_page_writer_generation(hybus_page_writer *w)
{
    return atomic_load_explicit(&w->page->generation, memory_order_acquire);
}

uint64_t hybus_page_writer_slot(hybus_page_writer *w, uint32_t slot)
{
    return hybus_page_slot(w->page, slot);
}

uint64_t hybus_page_writer_bump(hybus_page_writer *w, uint32_t slot)
{
    if (slot == UINT32_MAX)
        for (size_t i = 0; i < HYBUS_PAGE_SLOTS; i++)
            (void)atomic_fetch_add_explicit(&w->page->slots[i], 1, memory_order_release);
    else
        (void)atomic_fetch_add_explicit(&w->page->slots[slot % HYBUS_PAGE_SLOTS], 1,
                                        memory_order_release);
    return atomic_fetch_add_explicit(&w->page->generation, 1, memory_order_release) + 1;
}
