/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How often somebody did what a rule limits. Of fixed size: when there is no place for one more, the
 * limit counts as reached. */

#include <hybus/base.h>

#define RATES_MAX 4096u

typedef struct Rates {
    uint64_t seed;
    struct Rate {
        uint64_t key, full_usec; /* when it could all be used again; in the past: a free place */
    } rates[RATES_MAX];
} Rates;

int rates_init(Rates *r);

/* Whether one more of `n` in `per_usec` is left for `who` under the rule `id`. */
bool rates_left(const Rates *r, const char *id, const char *who, uint32_t n, uint64_t per_usec,
                uint64_t now);
/* Uses it. */
void rates_take(Rates *r, const char *id, const char *who, uint32_t n, uint64_t per_usec,
                uint64_t now);
