/* SPDX-License-Identifier: Apache-2.0 */
#include "words.h"

void words_free(char **words)
{
    if (!words)
        return;
    for (char **w = words; *w; w++)
        free(*w);
    free(words);
}

size_t words_count(char *const *words)
{
    size_t n = 0;

    while (words && words[n])
        n++;
    return n;
}

bool words_contain(char *const *words, const char *word)
{
    for (; words && *words; words++)
        if (streq(*words, word))
            return true;
    return false;
}

int words_add(char ***words, const char *word, size_t size)
{
    size_t n = words_count(*words);
    char **larger = reallocarray(*words, n + 2, sizeof *larger), *copy;

    if (!larger)
        return -ENOMEM;
    *words = larger;
    larger[n] = NULL;
    copy = strndup(word, size);
    if (!copy)
        return -ENOMEM;
    larger[n] = copy;
    larger[n + 1] = NULL;
    return 0;
}

char *words_join(char *const *words)
{
    size_t size = 1;
    char *s, *p;

    for (char *const *w = words; w && *w; w++)
        size += strlen(*w) + 1;
    s = p = malloc(size);
    if (!s)
        return NULL;
    *p = '\0';
    for (char *const *w = words; w && *w; w++) {
        if (w != words)
            *p++ = ' ';
        p = stpcpy(p, *w);
    }
    return s;
}

int words_split(const char *text, char ***words)
{
    int r = 0;

    while (r >= 0 && *(text += strspn(text, " "))) {
        size_t n = strcspn(text, " ");

        r = words_add(words, text, n);
        text += n;
    }
    return r;
}

bool words_equal(char *const *a, char *const *b)
{
    size_t n = words_count(a);

    if (n != words_count(b))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!streq(a[i], b[i]))
            return false;
    return true;
}

bool word_is_made_of(const char *s, size_t max, const char *extra)
{
    size_t n = strlen(s);

    if (n < 1 || n > max)
        return false;
    for (; *s; s++)
        if (!(*s >= 'a' && *s <= 'z') && !(*s >= '0' && *s <= '9') && !strchr(extra, *s))
            return false;
    return true;
}
