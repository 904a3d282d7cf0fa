/* SPDX-License-Identifier: Apache-2.0 */
#include "log-map.h"

#include <signal.h>
#include <sys/mman.h>

static log_map *volatile guards[LOG_MAP_GUARDS_MAX];
static struct sigaction before;
static uintptr_t page;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    int saved = errno;

    for (unsigned i = 0; i < LOG_MAP_GUARDS_MAX; i++) {
        log_map *m = guards[i];
        if (!m || at < (uintptr_t)m->bytes || at - (uintptr_t)m->bytes >= m->size)
            continue;
        if (mmap((void *)(at & ~(page - 1)), page, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        m->failed = 1;
        errno = saved;
        return;
    }
    /* Somebody else's: it happens again at once, and then as if we were not here. */
    (void)sigaction(SIGBUS, &before, NULL);
}

int log_map_guard(log_map *m)
{
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER}, old;

    page = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, &action, &old) < 0)
        return -errno;
    if (!(old.sa_flags & SA_SIGINFO) || old.sa_sigaction != on_sigbus)
        before = old;
    for (unsigned i = 0; i < LOG_MAP_GUARDS_MAX; i++)
        if (!guards[i]) {
            guards[i] = m;
            return 0;
        }
    return -ENOBUFS;
}

void log_map_unguard(log_map *m)
{
    for (unsigned i = 0; i < LOG_MAP_GUARDS_MAX; i++)
        if (guards[i] == m)
            guards[i] = NULL;
}
