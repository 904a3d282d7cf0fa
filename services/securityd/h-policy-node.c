/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy node. */

#include "h-policy.h"

/* The key as tools want it: the text is its bytes. */
int verb_node_add(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    _cleanup_(freep) char *base64 = NULL;
    char hex[129] = "";
    const char *key;
    size_t size;
    int r = ask_secret("node add",
                       json_pack("{sI ss ss}", "id", (json_int_t)1, "op", "node-add", "name",
                                 words[0]),
                       &answer, &key);

    if (r < 0)
        return r;
    size = strlen(key);
    if (2 * size >= sizeof hex || hybus_base64_encode(key, size, &base64) < 0)
        return complain("node add", -EPROTO, NULL);
    for (size_t i = 0; i < size; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)key[i]);
    if (!o->json && isatty(STDERR_FILENO))
        fprintf(stderr, "This key is shown once; it is the same one in three ways of writing it:\n");
    if (o->json)
        printf("{\"identity\":\"%s\",\"key\":\"%s\",\"hex\":\"%s\",\"base64\":\"%s\"}\n", words[0],
               key, hex, base64);
    else
        printf("identity     %s\nkey          %s\nkey (hex)    %s\nkey (base64) %s\n", words[0], key,
               hex, base64);
    explicit_bzero(hex, sizeof hex);
    explicit_bzero(base64, strlen(base64));
    return 0;
}

int verb_node_remove(const Options *o, char **words, int n)
{
    return call("RemoveNode", NULL, "s", words[0]);
}

int verb_node_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *one;
    size_t i;
    int r = call("ListNodes", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, one)
    {
        printf("%-24s since ", text_of(json_array_get(one, 0)));
        put_time(json_array_get(one, 1), "an unknown time");
        putchar('\n');
    }
    return 0;
}
