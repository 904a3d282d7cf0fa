/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* RFC 3875 (CGI) without processes: a request as environment, output as response. */

#include "hybus/base.h"

#define CGI_HEADERS_MAX 128u
#define CGI_OUTPUT_MAX (1024u * 1024u)     /* bytes that a command may write */
#define CGI_ENVIRONMENT_MAX (128u * 1024u) /* bytes of all variables */

typedef struct cgi_header {
    const char *name, *value;
} cgi_header;

typedef struct cgi_request {
    const char *id, *name, *protocol, *method, *path, *query, *principal, *peer;
    uint32_t deadline_ms;
    uint64_t handle;
    size_t n_body;
    cgi_header headers[CGI_HEADERS_MAX];
    size_t n_headers;
} cgi_request;

typedef struct cgi_environment {
    char *items[CGI_HEADERS_MAX + 32]; /* for execve */
    size_t n, size;
} cgi_environment;

/* -E2BIG. `e` is to be done either way. */
int cgi_environment_make(const cgi_request *q, cgi_environment *e);
void cgi_environment_done(cgi_environment *e);

typedef struct cgi_response {
    uint32_t status;
    cgi_header headers[CGI_HEADERS_MAX]; /* names in lower case */
    size_t n_headers;
    const char *body;
    size_t n_body;
} cgi_response;

/* Takes the output apart, in place. A block of header lines at the start that ends with an empty
 * line is taken as such; without one all is text. -EBADMSG: a header that must not be sent. */
int cgi_parse(char *output, size_t size, cgi_response *ret);

int cgi_write_all(int fd, const void *data, size_t size);
