/* SPDX-License-Identifier: Apache-2.0 */
#include "cgi.h"

#include <ctype.h>

int cgi_write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);

        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int add(cgi_environment *e, const char *name, const char *value, size_t length)
{
    if (e->n + 1 >= ELEMENTS(e->items) ||
        (e->size += strlen(name) + length + 2) > CGI_ENVIRONMENT_MAX)
        return -E2BIG;
    if (asprintf(&e->items[e->n], "%s=%.*s", name, (int)length, value) < 0) {
        e->items[e->n] = NULL;
        return -ENOMEM;
    }
    e->n++;
    return 0;
}

static int add_header(cgi_environment *e, const cgi_header *h)
{
    char name[128] = "HTTP_";
    size_t n = 5;

    for (const char *c = h->name; *c; c++) {
        /* An underscore would make two headers the same variable. */
        if (n + 1 >= sizeof name || !(isalnum((unsigned char)*c) || *c == '-'))
            return 0;
        name[n++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    }
    name[n] = 0;
    /* HTTP_PROXY is read as a setting by many programs (CVE-2016-5385 and its kin). */
    if (streq(name, "HTTP_PROXY") || streq(name, "HTTP_CONTENT_LENGTH"))
        return 0;
    if (streq(name, "HTTP_CONTENT_TYPE"))
        return add(e, "CONTENT_TYPE", h->value, strlen(h->value));
    for (size_t i = 0; i < e->n; i++) {
        const char *rest = startswith(e->items[i], name);

        if (rest && *rest == '=') {
            char *both;

            /* RFC 3875, 4.1.18: several of one name are one variable. */
            if ((e->size += strlen(h->value) + 2) > CGI_ENVIRONMENT_MAX)
                return -E2BIG;
            if (asprintf(&both, "%s, %s", e->items[i], h->value) < 0)
                return -ENOMEM;
            free(e->items[i]);
            e->items[i] = both;
            return 0;
        }
    }
    return add(e, name, h->value, strlen(h->value));
}

int cgi_environment_make(const cgi_request *q, cgi_environment *e)
{
    const char *path = strempty(q->path), *name = strempty(q->name), *peer = strempty(q->peer);
    const char *rest = startswith(path, name), *path_variable = getenv("PATH");
    size_t address = strlen(peer);
    char length[24], handle[24];
    int r;

    /* "192.0.2.7:4711" and "[2001:db8::1]:4711": the address alone. */
    if (*peer == '[')
        address = strcspn(++peer, "]");
    else if (strrchr(peer, ':'))
        address = strrchr(peer, ':') - peer;
    if (rest && *name && (!*rest || *rest == '/'))
        path = rest;
    snprintf(length, sizeof length, "%zu", q->n_body);
    snprintf(handle, sizeof handle, "%llu", (unsigned long long)q->handle);
    const struct {
        const char *name, *value;
    } items[] = {
        {"PATH", path_variable ? path_variable : "/usr/local/bin:/usr/bin:/bin"},
        {"GATEWAY_INTERFACE", "CGI/1.1"},
        {"SERVER_SOFTWARE", "HybridOS"},
        {"SERVER_PROTOCOL", strempty(q->protocol)},
        {"REQUEST_METHOD", strempty(q->method)},
        {"SCRIPT_NAME", name},
        {"PATH_INFO", path},
        {"QUERY_STRING", strempty(q->query)},
        {"REMOTE_USER", strempty(q->principal)},
        {"REQUEST_ID", strempty(q->id)},
        {"CONTENT_LENGTH", length},
        {"HYBRIDOS_HANDLE", handle},
    };

    for (size_t i = 0; i < ELEMENTS(items); i++) {
        r = add(e, items[i].name, items[i].value, strlen(items[i].value));
        if (r < 0)
            return r;
    }
    r = add(e, "REMOTE_ADDR", peer, address);
    for (size_t i = 0; i < q->n_headers && r >= 0; i++)
        r = add_header(e, &q->headers[i]);
    return r;
}

void cgi_environment_done(cgi_environment *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->items[i]);
    e->n = 0;
}

/* Length of the header block with its empty line, or 0 when the output does not begin with one. */
static size_t header_block(const char *output, size_t size)
{
    size_t i = 0;

    while (i < size) {
        const char *newline = memchr(output + i, '\n', size - i);
        size_t n, k = 0;

        if (!newline)
            return 0;
        n = newline - (output + i);
        if (n && output[i + n - 1] == '\r')
            n--;
        if (n == 0)
            return i == 0 ? 0 : (size_t)(newline + 1 - output);
        while (k < n && (isalnum((unsigned char)output[i + k]) || output[i + k] == '-'))
            k++;
        if (k == 0 || k == n || output[i + k] != ':')
            return 0;
        i = newline + 1 - output;
    }
    return 0;
}

static int take_header(char *line, size_t n, cgi_response *ret)
{
    char *value = memchr(line, ':', n), *end = line + n;

    *value++ = 0;
    while (end > value && isspace((unsigned char)end[-1]))
        end--;
    while (value < end && isspace((unsigned char)*value))
        value++;
    *end = 0;
    for (char *c = line; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    for (char *c = value; c < end; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return -EBADMSG;
    if (streq(line, "status")) {
        char *rest;
        unsigned long status = strtoul(value, &rest, 10);

        if (!isdigit((unsigned char)*value) || rest - value != 3 || (*rest && *rest != ' ') ||
            status < 200 || status > 599)
            return -EBADMSG;
        ret->status = (uint32_t)status;
        return 0;
    }
    if (ret->n_headers >= CGI_HEADERS_MAX)
        return -EBADMSG;
    ret->headers[ret->n_headers++] = (cgi_header){line, value};
    return 0;
}

int cgi_parse(char *output, size_t size, cgi_response *ret)
{
    size_t block = header_block(output, size);
    cgi_response a = {.status = 200, .body = output + block, .n_body = size - block};

    if (block == 0)
        a.headers[a.n_headers++] = (cgi_header){"content-type", "text/plain; charset=utf-8"};
    for (size_t i = 0; i < block;) {
        char *newline = memchr(output + i, '\n', block - i);
        size_t n = newline - (output + i);

        if (n && output[i + n - 1] == '\r')
            n--;
        if (n) {
            int r = take_header(output + i, n, &a);

            if (r < 0)
                return r;
        }
        i = newline + 1 - output;
    }
    *ret = a;
    return 0;
}
