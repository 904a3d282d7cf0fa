/* SPDX-License-Identifier: Apache-2.0 */

/* Runs a fuzz target without a fuzzer: every file of a folder, every shorter form of it (up to a
 * bound), and some mutations from a fixed seed, so that a normal test run meets more than the happy
 * path. */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED_MAX (1024u * 1024u)
#define TRUNCATIONS_MAX 512u
#define MUTATIONS 256u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy of exactly this size, so that the address sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (!copy)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void run_variants(uint8_t *data, size_t size)
{
    uint32_t state = 2463534242u;

    run(data, size);
    for (size_t i = 0; i < size && i < TRUNCATIONS_MAX; i++)
        run(data, i);
    for (unsigned i = 0; size > 0 && i < MUTATIONS; i++) {
        size_t at = next_random(&state) % size;
        uint8_t old = data[at];
        data[at] = (uint8_t)next_random(&state);
        run(data, size);
        if (i % 2) /* every other mutation stays: errors add up */
            data[at] = old;
    }
}

static int run_file(const char *folder, const char *name)
{
    static uint8_t data[SEED_MAX];
    char path[4096];
    size_t size;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    f = fopen(path, "re");
    if (!f) {
        perror(path);
        return -1;
    }
    size = fread(data, 1, sizeof(data), f);
    fclose(f);
    run_variants(data, size);
    return 0;
}

int main(int argc, char *argv[])
{
    struct dirent **names;
    int n, done = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
        return 2;
    }
    n = scandir(argv[1], &names, NULL, alphasort);
    if (n < 0) {
        perror(argv[1]);
        return 1;
    }
    run((const uint8_t *)"", 0);
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.' && run_file(argv[1], names[i]->d_name) == 0)
            done++;
        free(names[i]);
    }
    free(names);
    printf("%d seeds\n", done);
    return done > 0 ? 0 : 1;
}
