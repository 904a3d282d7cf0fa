/* SPDX-License-Identifier: Apache-2.0 */
/* Flaws of the packaged library by which one client ends the process or eats its memory, mended
 * from outside. The functions here have the names of the library's own and stand before them in the
 * dynamic linker's order, so that its calls, between its own files too, come here first.
 *
 * - A stream whose last bytes were given to the socket waits for the write to complete. Whatever
 *   lifts its window above zero meanwhile (WINDOW_UPDATE, SETTINGS) meets a failing assertion.
 * Nothing more will be sent: its window is put out of range, where the library refuses every
 * change.
 * - A header block is bounded in bytes (400 KiB) but not in fields: one byte each, expanded to
 * sixty, a hundred streams a connection. Both are bounded here.
 * - Fields of trailers are put among those of the header. They are dropped.
 * - "cache-digest" is decoded for a server push that we do not offer. It is not looked at.
 * - A connection is closed while the client still sends: see http-linger.c.
 * - A connection that may end is closed in the turn in which its last bytes were given to the
 *   socket: what did not fit there is lost. It is closed when they are out.
 * - A CONTINUATION frame on a connection that is ending makes the library read it for ever.
 *
 * tests/httpd/attacks.py and features.py try each; without this file they fail. */

#include "http.h"

#include <dlfcn.h>
#include <h2o/http2.h>
#include <h2o/http2_internal.h>

#define INTERPOSED __attribute__((visibility("default")))

static struct {
    __typeof__(&h2o_http2_stream_send_pending_data) send_pending_data;
    __typeof__(&h2o_http2_stream_reset) reset;
    __typeof__(&h2o_hpack_parse_headers) parse_headers;
    __typeof__(&h2o_http2_decode_frame) decode_frame;
    __typeof__(&h2o_socket_close) socket_close;
    bool draining;
} library;

static bool find(void *ret_function, const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);

    memcpy(ret_function, &f, sizeof(f));
    return f != NULL;
}

int http_library_init(void)
{
    bool found = find(&library.send_pending_data, "h2o_http2_stream_send_pending_data") &&
                 find(&library.reset, "h2o_http2_stream_reset") &&
                 find(&library.parse_headers, "h2o_hpack_parse_headers") &&
                 find(&library.decode_frame, "h2o_http2_decode_frame") &&
                 find(&library.socket_close, "h2o_socket_close");

    library.draining = false;
    return found ? 0 : -ENOSYS;
}

void http_library_drain(bool draining)
{
    library.draining = draining;
}

static void seal_window(h2o_http2_stream_t *stream)
{
    stream->output_window._avail = SSIZE_MAX / 2;
}

INTERPOSED void h2o_http2_stream_send_pending_data(h2o_http2_conn_t *conn,
                                                   h2o_http2_stream_t *stream)
{
    library.send_pending_data(conn, stream);
    if (stream->state == H2O_HTTP2_STREAM_STATE_END_STREAM)
        seal_window(stream);
}

/* By the client, or by the library because of what the client did. */
INTERPOSED void h2o_http2_stream_reset(h2o_http2_conn_t *conn, h2o_http2_stream_t *stream)
{
    HttpConnection *c = conn->sock ? http_socket_connection(conn->sock) : NULL;
    bool early = stream->state < H2O_HTTP2_STREAM_STATE_SEND_HEADERS;

    if (!early)
        seal_window(stream);
    library.reset(conn, stream);
    if (early && c)
        http_connection_reset(c); /* later ones are counted as their exchange ends */
}

INTERPOSED int h2o_hpack_parse_headers(h2o_req_t *req, h2o_hpack_header_table_t *table,
                                       const uint8_t *src, size_t size, int *pseudo,
                                       size_t *content_length, h2o_cache_digests_t **digests,
                                       const char **error)
{
    bool trailers = !pseudo;
    size_t before = req->headers.size;
    int r;

    if (size > HTTP_HEAD_MAX || http_hpack_count(src, size) > H2O_MAX_HEADERS) {
        *error = "too large a header";
        return H2O_HTTP2_ERROR_ENHANCE_YOUR_CALM;
    }
    r = library.parse_headers(req, table, src, size, pseudo, content_length, NULL, error);
    if (trailers)
        req->headers.size = before;
    return r;
}

INTERPOSED ssize_t h2o_http2_decode_frame(h2o_http2_frame_t *frame, const uint8_t *src, size_t size,
                                          const h2o_http2_settings_t *settings, const char **error)
{
    ssize_t r = library.decode_frame(frame, src, size, settings, error);

    if (r >= 0 && library.draining && frame->type == H2O_HTTP2_FRAME_TYPE_CONTINUATION) {
        *error = "no new requests";
        return H2O_HTTP2_ERROR_PROTOCOL;
    }
    return r;
}

static void on_last_bytes(h2o_socket_t *socket, const char *error)
{
    h2o_socket_close(socket);
}

/* Only TLS keeps what is not out in the socket itself, the rest was freed with the stream. Whoever
 * never takes it is idle, and found by the sweep. */
static bool is_unfinished(const h2o_socket_t *socket, const HttpConnection *c)
{
    return c->http2 && c->tls && !c->dying && !c->last_bytes && socket->_cb.write;
}

INTERPOSED void h2o_socket_close(h2o_socket_t *socket)
{
    HttpConnection *c = http_socket_connection(socket);

    if (c && is_unfinished(socket, c)) {
        c->last_bytes = true;
        h2o_socket_read_stop(socket);
        socket->_cb.write = on_last_bytes;
        socket->data = NULL;
        return;
    }
    if (c)
        http_connection_leave(c);
    library.socket_close(socket);
}

void http_library_reset(h2o_req_t *req)
{
    h2o_http2_stream_t *stream = H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
    h2o_http2_conn_t *conn = (h2o_http2_conn_t *)req->conn;

    if (conn->state < H2O_HTTP2_CONN_STATE_IS_CLOSING) {
        h2o_http2_encode_rst_stream_frame(&conn->_write.buf, stream->stream_id,
                                          -H2O_HTTP2_ERROR_CANCEL);
        h2o_http2_conn_request_write(conn);
    }
    h2o_http2_stream_reset(conn, stream);
}
