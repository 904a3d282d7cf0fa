/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded by roads.py: the clock that people set, shifted by the seconds in the file that CLOCK_SHIFT
 * names. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#define SEEN __attribute__((visibility("default")))

static long shift(void)
{
    const char *path = getenv("CLOCK_SHIFT");
    FILE *f = path ? fopen(path, "re") : NULL;
    long seconds = 0;

    if (f) {
        if (fscanf(f, "%ld", &seconds) != 1)
            seconds = 0;
        fclose(f);
    }
    return seconds;
}

SEEN int clock_gettime(clockid_t clock, struct timespec *t)
{
    static int (*real)(clockid_t, struct timespec *);
    int r;

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    r = real(clock, t);
    if (r == 0 && clock == CLOCK_REALTIME)
        t->tv_sec += shift();
    return r;
}

SEEN int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    int r = clock_gettime(CLOCK_REALTIME, &now);

    (void)zone;
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return r;
}

SEEN time_t time(time_t *t)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (t)
        *t = now.tv_sec;
    return now.tv_sec;
}
