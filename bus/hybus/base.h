/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What every file of HybridOS may use: cleanup attributes, ownership transfer, small string
 * helpers. No other hybus header is included here. */

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HYBUS_EXPORT __attribute__((visibility("default")))

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(fmt, first) __attribute__((format(printf, fmt, first)))
#define _unused_ __attribute__((unused))
#define _fallthrough_ __attribute__((fallthrough))
#define _likely_(x) __builtin_expect(!!(x), 1)
#define _unlikely_(x) __builtin_expect(!!(x), 0)

#define ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))

/* Defines NAMEp, a cleanup function for `TYPE *` variables that calls `func` unless NULL. */
#define HYBUS_DEFINE_CLEANUP(type, func)                                                           \
    static inline _unused_ void func##p(type **p)                                                  \
    {                                                                                              \
        if (*p)                                                                                    \
            func(*p);                                                                              \
    }

/* Hands over the value of a variable that has a cleanup attribute. */
#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) _taken = (p);                                                                \
        (p) = NULL;                                                                                \
        _taken;                                                                                    \
    })
#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int _taken_fd = (fd);                                                                      \
        (fd) = -1;                                                                                 \
        _taken_fd;                                                                                 \
    })

#define MIN_OF(a, b)                                                                               \
    ({                                                                                             \
        __typeof__(a) _a = (a);                                                                    \
        __typeof__(b) _b = (b);                                                                    \
        _a < _b ? _a : _b;                                                                         \
    })
#define MAX_OF(a, b)                                                                               \
    ({                                                                                             \
        __typeof__(a) _a = (a);                                                                    \
        __typeof__(b) _b = (b);                                                                    \
        _a > _b ? _a : _b;                                                                         \
    })

static inline _unused_ void freep(void *p)
{
    free(*(void **)p);
}

/* Of a string that was a secret. */
static inline _unused_ void wipe_free(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

static inline int safe_close(int fd)
{
    if (fd >= 0) {
        int saved = errno;
        close(fd);
        errno = saved;
    }
    return -1;
}

static inline _unused_ void closep(int *fd)
{
    safe_close(*fd);
}

static inline _unused_ void fclosep(FILE **f)
{
    if (*f)
        fclose(*f);
}

static inline bool streq(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static inline const char *strempty(const char *s)
{
    return s ? s : "";
}

/* The rest of `s` after `prefix`, or NULL if `s` does not start with it. */
static inline const char *startswith(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}
