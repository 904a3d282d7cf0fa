/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-answer.h"

#include <hybus/error.h>

json_t *decimal(uint64_t n)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)n);
    return json_string(text);
}

json_t *answer_to(const json_t *question)
{
    json_t *answer = json_object();

    json_object_set(answer, "id", json_object_get(question, "id"));
    json_object_set_new(answer, "ok", json_true());
    return answer;
}

static const char *error_name(int error)
{
    switch (error) {
    case -EACCES:
    case -EKEYREJECTED:
    case -EINVAL:
    case -ENOENT:
    case -EEXIST:
    case -ENOBUFS:
        return startswith(hybus_error_name(error), HYBUS_ERROR_PREFIX);
    case -EAGAIN:
        return "Throttled";
    default:
        return "Internal";
    }
}

static json_t *failure(const json_t *question, int error, const char *message)
{
    json_t *answer = json_object();

    json_object_set(answer, "id", json_object_get(question, "id"));
    json_object_set_new(answer, "error", json_string(error_name(error)));
    json_object_set_new(answer, "message", json_string(message));
    return answer;
}

int refuse(Peer *p, const json_t *question, int error, const char *message)
{
    return peer_send(p, failure(question, error, message), -1);
}

int throttled(Peer *p, const json_t *question, uint64_t wait)
{
    json_t *answer = failure(question, -EAGAIN, "too many wrong attempts");

    json_object_set_new(answer, "retry_after",
                        json_integer((json_int_t)((wait + 999999) / 1000000)));
    return peer_send(p, answer, -1);
}

const char *string(const json_t *j, const char *key)
{
    return json_string_value(json_object_get(j, key));
}

bool is_missing_or(const json_t *j, const char *key, json_type type)
{
    const json_t *v = json_object_get(j, key);
    return !v || json_typeof(v) == type;
}

int send_secret(Peer *p, const json_t *q, char *secret)
{
    json_t *answer = answer_to(q);

    json_object_set_new(answer, "secret", json_string(secret));
    explicit_bzero(secret, strlen(secret));
    free(secret);
    return peer_send(p, answer, -1);
}

int read_words(const json_t *list, char ***ret)
{
    const json_t *one;
    size_t i;
    int r = 0;

    if (list && (!json_is_array(list) || json_array_size(list) > 64))
        return -EINVAL;
    json_array_foreach (list, i, one) {
        const char *word = strempty(json_string_value(one));

        if (r >= 0)
            r = words_add(ret, word, strlen(word));
    }
    return r;
}
