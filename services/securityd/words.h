/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A list of words; all functions take NULL for an empty one. */

#include <hybus/base.h>

void words_free(char **words);
HYBUS_DEFINE_CLEANUP(char *, words_free)
size_t words_count(char *const *words);
bool words_contain(char *const *words, const char *word);
bool words_equal(char *const *a, char *const *b);
int words_add(char ***words, const char *word, size_t size);
char *words_join(char *const *words);
/* Adds the words of `text`, which spaces separate. */
int words_split(const char *text, char ***words);

/* 1 to `max` of a-z, 0-9 and `extra` */
bool word_is_made_of(const char *s, size_t max, const char *extra);
