/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy cert: certificates of clients, by the device's own authority. */

#include <fcntl.h>
#include <sys/stat.h>

#include "h-policy.h"

static int ask_about(const char *what, json_t *question, json_t **ret)
{
    int r = ask(what, question, ret);

    return r < 0 ? r : answered(what, *ret);
}

int verb_cert_init(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r = ask_about("cert init", json_pack("{sI ss}", "id", (json_int_t)1, "op", "cert-init"), &answer);

    if (r >= 0 && !o->json)
        fprintf(stderr, "Its certificate is /run/hybridos/security/ca.pem\n");
    return r;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && streq(s + n - m, end);
}

/* The key is in it: nobody else reads it, and nothing that was there is followed or overwritten. */
static int write_bundle(const char *path, const void *data, size_t size)
{
    _cleanup_(closep) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    const char *at = data;

    if (fd < 0)
        return -errno;
    while (size > 0) {
        ssize_t k = write(fd, at, size);

        if (k < 0 && errno != EINTR)
            return -errno;
        at += MAX_OF(k, 0);
        size -= (size_t)MAX_OF(k, 0);
    }
    return fsync(fd) < 0 ? -errno : 0;
}

static int save_bundle(const Options *o, const json_t *answer, bool pkcs12)
{
    const char *text = json_string_value(json_object_get(answer, "secret"));
    _cleanup_(freep) void *der = NULL;
    size_t size = strlen(strempty(text));
    int r = text ? 0 : -EPROTO;

    if (r >= 0 && pkcs12)
        r = hybus_base64_decode(text, size, &der, &size);
    if (r >= 0)
        r = write_bundle(o->out, pkcs12 ? der : text, size);
    if (der)
        explicit_bzero(der, size);
    return r < 0 ? complain(o->out, r, NULL) : 0;
}

int verb_cert_issue(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    char passphrase[PASSWORD_SIZE] = "";
    bool pkcs12 = o->out && ends_with(o->out, ".p12");
    struct stat st;
    json_t *q;
    int r = 0;

    if (!o->out)
        return complain("cert issue", -EINVAL, "--out FILE is needed: it will hold the key");
    if (lstat(o->out, &st) == 0)
        return complain(o->out, -EEXIST, NULL);
    if (pkcs12) /* its file is carried around: most programs want a passphrase */
        r = read_password("cert issue", passphrase);
    if (r < 0)
        return r;
    q = json_pack("{sI ss ss sI}", "id", (json_int_t)1, "op", "cert-issue", "name", words[0], "expires",
                  (json_int_t)o->expires);
    if (q && o->user)
        json_object_set_new(q, "user", json_string(o->user));
    if (q && o->roles)
        json_object_set_new(q, "roles", list_of_roles(o->roles));
    if (q && pkcs12)
        json_object_set_new(q, "code", json_string(passphrase));
    explicit_bzero(passphrase, sizeof passphrase);
    r = ask_about("cert issue", q, &answer);
    return r < 0 ? r : save_bundle(o, answer, pkcs12);
}

int verb_cert_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *c;
    size_t i;
    int r = call("ListCertificates", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, c)
    {
        printf("%-20s %-20s made ", text_of(json_array_get(c, 0)), text_of(json_array_get(c, 2)));
        put_time(json_array_get(c, 3), "-");
        printf(", expires ");
        put_time(json_array_get(c, 4), "never");
        printf(", revoked ");
        put_time(json_array_get(c, 5), "never");
        putchar('\n');
    }
    return 0;
}

int verb_cert_revoke(const Options *o, char **words, int n)
{
    return call("RevokeCertificate", NULL, "s", words[0]);
}
