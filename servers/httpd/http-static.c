/* SPDX-License-Identifier: Apache-2.0 */
/* Files below the configured document root: HEAD, ranges, conditions, and gzip by the library's
 * filter. The library's own handler follows links out of the root, shows hidden files, waits for
 * ever at a pipe, and knows its root once for all; so files are opened here, and
 * nothing but plain files is served. The root is looked up
 * for every request: a reload may change it, and no disk is kept busy. */

#include "http.h"

#include <hybus/log.h>
#include <openssl/rand.h>
#include <sys/stat.h>

#include "http-condition.h"

#define GZIP_MIN_SIZE 256u
#define GZIP_QUALITY 4
#define PIECE (64u * 1024u)
#define INDEX "index.html"
#define PART_MAX 256u /* bytes of the header of a part */

struct HttpFile {
    int fd;
    struct stat st;
    char etag[80], modified[HTTP_DATE_SIZE], boundary[33];
    const char *type;
    bool gzip;
    http_range ranges[HTTP_RANGES_MAX];
    int n_ranges, part;
    uint64_t at, end; /* what is read next, and where it ends */
};

/* --- opening -----------------------------------------------------------------------------------
 */

/* Names with a dot in front are nobody's business, but /.well-known (RFC 8615). */
static bool is_hidden(const char *path)
{
    const char *rest = startswith(path, "/.well-known/");

    path = rest ? rest - 1 : path;
    return strstr(path, "/.") || strstr(path, "//");
}

/* Step by step, and no step follows a link. `path` has no dot segments and ends in a name. */
static int open_below(int root, const char *path)
{
    _cleanup_(closep) int directory = fcntl(root, F_DUPFD_CLOEXEC, 3);
    char name[NAME_MAX + 1];

    while (directory >= 0) {
        size_t n;
        int fd;

        path += strspn(path, "/");
        n = strcspn(path, "/");
        if (n == 0 || n > NAME_MAX)
            return -ENOENT;
        memcpy(name, path, n);
        name[n] = '\0';
        path += n;
        fd = openat(directory, name,
                    (*path ? O_PATH | O_DIRECTORY : O_RDONLY | O_NONBLOCK | O_NOCTTY) | O_NOFOLLOW |
                        O_CLOEXEC);
        if (fd < 0 || !*path)
            return fd < 0 ? -errno : fd;
        safe_close(directory);
        directory = fd;
    }
    return -errno;
}

static int open_root(const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* -EISDIR: the name of a directory, without its slash. */
static int open_file(const char *root_path, const char *path, struct stat *ret_st)
{
    char name[HTTP_PATH_MAX + sizeof(INDEX)];
    size_t n = strlen(path);
    _cleanup_(closep) int root = open_root(root_path), fd = -1;

    if (root < 0)
        return root;
    if (is_hidden(path))
        return -ENOENT;
    snprintf(name, sizeof(name), "%s%s", path, path[n - 1] == '/' ? INDEX : "");
    fd = open_below(root, name);
    if (fd < 0)
        return fd;
    if (fstat(fd, ret_st) < 0)
        return -errno;
    if (S_ISDIR(ret_st->st_mode))
        return path[n - 1] == '/' ? -ENOENT : -EISDIR;
    return S_ISREG(ret_st->st_mode) ? TAKE_FD(fd) : -ENOENT;
}

void http_static_check(const http_settings *s)
{
    int fd = s->root[0] ? open_root(s->root) : -1;

    if (s->root[0] && fd < 0)
        hybus_log_errno(LOG_WARNING, fd, "[files] Root: cannot open %s, requests get 503", s->root);
    safe_close(fd);
}

/* --- headers -----------------------------------------------------------------------------------
 */

static http_span header(const HttpExchange *x, const char *name)
{
    const h2o_headers_t *headers = &x->req->headers;
    ssize_t at = h2o_find_header_by_str(headers, name, strlen(name), -1);

    if (at == -1)
        return (http_span){};
    return (http_span){headers->entries[at].value.base, headers->entries[at].value.len};
}

/* A list may come in several fields. */
static http_span list_header(HttpExchange *x, const char *name)
{
    const h2o_headers_t *headers = &x->req->headers;
    h2o_iovec_t all = {};

    for (ssize_t at = -1; (at = h2o_find_header_by_str(headers, name, strlen(name), at)) != -1;)
        all = all.base ? h2o_concat(&x->req->pool, all, h2o_iovec_init(H2O_STRLIT(", ")),
                                    headers->entries[at].value)
                       : headers->entries[at].value;
    return (http_span){all.base, all.len};
}

/* By the name; what is text is UTF-8. */
static void find_type(HttpExchange *x, HttpFile *f)
{
    const char *slash = strrchr(x->path, '/') + 1, *name = *slash ? slash : INDEX;
    h2o_mimemap_type_t *type = h2o_mimemap_get_type_by_extension(
        x->req->pathconf->mimemap, h2o_get_filext(name, strlen(name)));
    h2o_iovec_t mime = type->data.mimetype;
    bool text = mime.len > 5 && memcmp(mime.base, "text/", 5) == 0;

    f->type = h2o_concat(&x->req->pool, mime,
                         text ? h2o_iovec_init(H2O_STRLIT("; charset=utf-8")) : (h2o_iovec_t){})
                  .base;
    x->req->res.mime_attr = &type->data.attr;
    f->gzip = type->data.attr.is_compressible && f->st.st_size >= (off_t)GZIP_MIN_SIZE &&
              x->req->version >= 0x101 &&
              (h2o_get_compressible_types(&x->req->headers) & H2O_COMPRESSIBLE_GZIP);
}

/* What gzip makes of the file is the same to a reader, but not byte for byte: a weak tag. */
static http_validators make_validators(HttpFile *f, bool gzip)
{
    const struct stat *s = &f->st;
    int64_t modified = s->st_mtim.tv_sec;

    snprintf(f->etag, sizeof(f->etag), "%s\"%llx-%llx-%llx.%lx-%llx.%lx\"", gzip ? "W/" : "",
             (unsigned long long)s->st_ino, (unsigned long long)s->st_size,
             (unsigned long long)s->st_mtim.tv_sec, (unsigned long)s->st_mtim.tv_nsec,
             (unsigned long long)s->st_ctim.tv_sec, (unsigned long)s->st_ctim.tv_nsec);
    /* Never later than the answer's own date (RFC 9110, 8.8.2.1). */
    if (modified > time(NULL) || !http_date_format(modified, f->modified)) {
        f->modified[0] = '\0';
        modified = -1;
    }
    return (http_validators){f->etag, modified};
}

static void add_headers(HttpExchange *x, HttpFile *f, bool gzip)
{
    http_reply_header(x, "etag", f->etag);
    if (f->modified[0])
        http_reply_header(x, "last-modified", f->modified);
    http_reply_header(x, "cache-control", "private, no-cache");
    if (x->req->res.mime_attr->is_compressible && !gzip) /* the filter says so else */
        http_reply_header(x, "vary", "accept-encoding");
}

/* --- bodies ------------------------------------------------------------------------------------
 */

static size_t part_header(const HttpFile *f, int part, char buffer[PART_MAX])
{
    const http_range *r = &f->ranges[part];

    return (size_t)snprintf(buffer, PART_MAX,
                            "\r\n--%s\r\nContent-Type: %.80s\r\nContent-Range: bytes %llu-%llu/%llu"
                            "\r\n\r\n",
                            f->boundary, f->type, (unsigned long long)r->first,
                            (unsigned long long)r->last, (unsigned long long)f->st.st_size);
}

static size_t parts_end(const HttpFile *f, char buffer[PART_MAX])
{
    return (size_t)snprintf(buffer, PART_MAX, "\r\n--%s--\r\n", f->boundary);
}

static bool begin_part(HttpExchange *x, HttpFile *f)
{
    char text[PART_MAX];

    f->at = f->ranges[f->part].first;
    f->end = f->ranges[f->part].last + 1;
    return f->n_ranges == 1 || http_reply_write(x, text, part_header(f, f->part, text)) >= 0;
}

/* A file that has become shorter ends the answer where it cannot be taken for whole. */
static bool read_piece(HttpExchange *x, HttpFile *f)
{
    static char piece[PIECE];
    ssize_t n = pread(f->fd, piece, MIN_OF(f->end - f->at, (uint64_t)PIECE), (off_t)f->at);

    if (n <= 0)
        return false;
    f->at += (uint64_t)n;
    return http_reply_write(x, piece, (size_t)n) >= 0;
}

void http_static_refill(HttpExchange *x)
{
    HttpFile *f = x->file;
    char text[PART_MAX];

    if (x->ended || x->aborted)
        return;
    x->aborted = !read_piece(x, f);
    if (x->aborted || f->at < f->end)
        return;
    if (++f->part < f->n_ranges)
        x->aborted = !begin_part(x, f);
    else
        x->ended = f->n_ranges == 1 || http_reply_write(x, text, parts_end(f, text)) >= 0;
}

static void file_dispose(void *data)
{
    HttpFile *f = data;

    safe_close(f->fd);
}

/* --- answers -----------------------------------------------------------------------------------
 */

static void send_body(HttpExchange *x, HttpFile *f, uint64_t size)
{
    x->req->res.content_length = size;
    if (x->head || size == 0) {
        http_reply_empty(x);
        return;
    }
    x->file = f;
    x->aborted = !begin_part(x, f);
    http_static_refill(x);
    http_reply_stream(x);
}

static void send_whole(HttpExchange *x, HttpFile *f)
{
    f->n_ranges = 1;
    f->ranges[0] = (http_range){0, (uint64_t)f->st.st_size - 1};
    if (f->gzip)
        x->req->compress_hint = H2O_COMPRESS_HINT_AUTO;
    http_reply_start(x, 200);
    http_reply_header(x, "content-type", f->type);
    http_reply_header(x, "accept-ranges", f->gzip ? "none" : "bytes");
    add_headers(x, f, f->gzip);
    http_reply_page_policy(x, (http_span){f->type, strlen(f->type)});
    send_body(x, f, (uint64_t)f->st.st_size);
}

static uint64_t parts_size(HttpFile *f)
{
    unsigned char random[16];
    uint64_t size = 0;
    char text[PART_MAX];

    (void)RAND_bytes(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(f->boundary + 2 * i, 3, "%02x", random[i]);
    for (int i = 0; i < f->n_ranges; i++)
        size += part_header(f, i, text) + f->ranges[i].last - f->ranges[i].first + 1;
    return size + parts_end(f, text);
}

static void send_ranges(HttpExchange *x, HttpFile *f)
{
    char text[PART_MAX];

    http_reply_start(x, 206);
    add_headers(x, f, false);
    http_reply_page_policy(x, (http_span){f->type, strlen(f->type)});
    if (f->n_ranges == 1) {
        snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)f->ranges[0].first,
                 (unsigned long long)f->ranges[0].last, (unsigned long long)f->st.st_size);
        http_reply_header(x, "content-type", f->type);
        http_reply_header(x, "content-range", text);
        send_body(x, f, f->ranges[0].last - f->ranges[0].first + 1);
        return;
    }
    uint64_t size = parts_size(f);

    snprintf(text, sizeof(text), "multipart/byteranges; boundary=%s", f->boundary);
    http_reply_header(x, "content-type", text);
    send_body(x, f, size);
}

static void send_unsatisfiable(HttpExchange *x, const HttpFile *f)
{
    char text[64];

    snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)f->st.st_size);
    http_reply_header(x, "content-range", text);
    http_exchange_problem(x, 416, 0);
}

static void send_redirect(HttpExchange *x)
{
    h2o_iovec_t to = h2o_uri_escape(&x->req->pool, x->path, strlen(x->path), "/");

    if (x->query.size > 0)
        to = h2o_concat(&x->req->pool, to, h2o_iovec_init(H2O_STRLIT("/?")),
                        h2o_iovec_init(x->query.base, x->query.size));
    else
        to = h2o_concat(&x->req->pool, to, h2o_iovec_init(H2O_STRLIT("/")));
    http_reply_header(x, "location", to.base);
    http_exchange_problem(x, 301, 0);
}

static void serve(HttpExchange *x, HttpFile *f)
{
    const http_conditions conditions = {.if_match = list_header(x, "if-match"),
                                        .if_none_match = list_header(x, "if-none-match"),
                                        .if_modified_since = header(x, "if-modified-since"),
                                        .if_unmodified_since = header(x, "if-unmodified-since")};
    http_span range = x->head ? (http_span){} : header(x, "range");
    http_validators v = make_validators(f, false);
    unsigned status;

    find_type(x, f);
    if (range.size > 0 && http_if_range_holds(header(x, "if-range"), &v))
        f->n_ranges = http_ranges_parse(range, (uint64_t)f->st.st_size, f->ranges);
    if (f->n_ranges == 0)
        v = make_validators(f, f->gzip);
    status = http_conditions_judge(&conditions, &v);
    if (status == 304) {
        http_reply_start(x, 304);
        add_headers(x, f, false);
        http_reply_empty(x);
    } else if (status) {
        http_exchange_problem(x, status, 0);
    } else if (f->n_ranges == -ERANGE) {
        send_unsatisfiable(x, f);
    } else if (f->n_ranges > 0) {
        send_ranges(x, f);
    } else {
        send_whole(x, f);
    }
}

bool http_static_has(const HttpExchange *x)
{
    const Http *h = x->connection->http;

    /* Those two are never anybody's files. */
    return h->settings->root[0] && !endpoint_core_has(h->core, x->path) &&
           !streq(x->path, "/system") && !startswith(x->path, "/system/") &&
           !streq(x->path, "/nodes") && !startswith(x->path, "/nodes/");
}

void http_static_reply(HttpExchange *x)
{
    const char *root = x->connection->http->settings->root;
    struct stat st;
    HttpFile *f;
    int fd;

    fd = open_file(root, x->path, &st);
    if (fd >= 0) {
        f = h2o_mem_alloc_shared(&x->req->pool, sizeof(*f), file_dispose);
        *f = (HttpFile){.fd = fd, .st = st};
        serve(x, f);
    } else if (fd == -EISDIR) {
        send_redirect(x);
    } else if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -EIO) {
        http_exchange_problem(x, 503, 1000000u);
    } else {
        http_exchange_problem(x, 404, 0);
    }
}

void http_static_register(h2o_pathconf_t *path)
{
    h2o_compress_args_t compress = {
        .min_size = GZIP_MIN_SIZE, .gzip = {.quality = GZIP_QUALITY}, .brotli = {.quality = -1}};

    h2o_compress_register(path, &compress);
}
