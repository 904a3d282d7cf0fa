/* SPDX-License-Identifier: Apache-2.0 */
/* People log in here, and change their passwords: pages without scripts, and what their forms or a
 * program send. The answer is a cookie that no script can read and no other site can make a browser
 * send. A login always makes a new session and ends the one that the request came with, so that
 * nobody is made to use a session of an attacker's choice. Passwords are taken over TLS only. */

#include "http.h"

#include <hybus/log.h>
#include <jansson.h>

#define BODY_MAX 4096u
#define USER_ROOM 65u
#define PASSWORD_ROOM 257u
#define ATTRIBUTES "; Path=/; Secure; HttpOnly; SameSite=Strict"

struct HttpLogin {
    HttpExchange *x; /* NULL: the client has gone */
    hybus_agent *agent;
    char user[USER_ROOM], password[PASSWORD_ROOM];
    char fresh[PASSWORD_ROOM];     /* the new one, when it is changed */
    char old[HTTP_BEARER_MAX + 1]; /* the session that the request came with; "" */
    const char *page;              /* that the form stands on */
    bool form;
};

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<title>Users</title>\n<style>\n"
    "body { font: 1rem/1.5 system-ui, sans-serif; max-width: 20rem; margin: 15vh auto; padding: 0 "
    "1rem }\n"
    "label { display: block; margin: 1rem 0 }\n"
    "input { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: .5rem }\n"
    "button { font: inherit; padding: .5rem 1.5rem }\n"
    "[role=alert] { color: #a00 }\n</style>\n";
static const char page_form[] =
    "<h1>Log in</h1>\n<form method=\"post\" action=\"/system/login\">\n"
    "<label>User <input name=\"user\" autocomplete=\"username\" autocapitalize=\"none\" required "
    "autofocus></label>\n"
    "<label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\" "
    "required></label>\n"
    "<button>Log in</button>\n</form>\n";
static const char page_done[] =
    "<h1>Log in</h1>\n<p>You are logged in.</p>\n"
    "<p><a href=\"/system/password\">Change the password</a></p>\n"
    "<form method=\"post\" action=\"/system/logout\"><button>Log out</button></form>\n";

static const char page_password[] =
    "<h1>Change the password</h1>\n<form method=\"post\" action=\"/system/password\">\n"
    "<label>Old password <input name=\"old\" type=\"password\" autocomplete=\"current-password\" "
    "required "
    "autofocus></label>\n"
    "<label>New password <input name=\"new\" type=\"password\" autocomplete=\"new-password\" "
    "minlength=\"8\" "
    "required></label>\n"
    "<label>The same again <input name=\"again\" type=\"password\" autocomplete=\"new-password\" "
    "required></label>\n"
    "<button>Change</button>\n</form>\n<p>You are logged out everywhere else.</p>\n";

static void send_page(HttpExchange *x, unsigned status, const char *note, const char *rest)
{
    char page[3072];
    int n = snprintf(page, sizeof(page), "%s%s%s%s%s", page_head, note ? "<p role=\"alert\">" : "",
                     strempty(note), note ? "</p>\n" : "", rest);

    http_reply_start(x, status);
    http_reply_page_policy(x, HTTP_SPAN("text/html"));
    http_reply_body(x, "text/html; charset=utf-8", page, MIN_OF((size_t)n, sizeof(page) - 1));
}

static bool is_method(const HttpExchange *x, const char *method)
{
    return http_span_is((http_span){x->req->method.base, x->req->method.len}, method);
}

static http_span header(const HttpExchange *x, const h2o_token_t *token)
{
    ssize_t at = h2o_find_header(&x->req->headers, token, -1);

    return at == -1 ? (http_span){"", 0}
                    : (http_span){x->req->headers.entries[at].value.base,
                                  x->req->headers.entries[at].value.len};
}

static bool is_type(HttpExchange *x, const char *type)
{
    http_span value = header(x, H2O_TOKEN_CONTENT_TYPE);
    const char *end = memchr(value.base, ';', value.size);

    if (end)
        value.size = (size_t)(end - value.base);
    while (value.size > 0 && value.base[value.size - 1] == ' ')
        value.size--;
    return http_span_is_nocase(value, type);
}

/* --- what was sent ------------------------------------------------------------------------------
 */

static int copy_json(const json_t *o, const char *key, char *to, size_t room)
{
    const char *value = json_string_value(json_object_get(o, key));

    if (!value)
        return -EINVAL;
    return (size_t)snprintf(to, room, "%s", value) < room ? 0 : -ENAMETOOLONG;
}

/* Where a field of the body goes. */
typedef struct Field {
    const char *name;
    char *to;
    size_t room;
} Field;

static int read_json(const Field *fields, const char *body, size_t size)
{
    json_t *o = json_loadb(body, size, JSON_REJECT_DUPLICATES, NULL);
    int r = 0;

    for (; r >= 0 && fields->name; fields++)
        r = copy_json(o, fields->name, fields->to, fields->room);
    json_decref(o);
    return r;
}

static int read_form(const Field *fields, http_span form)
{
    int r = 0;

    for (; r >= 0 && fields->name; fields++)
        r = http_form_find(form, fields->name, fields->to, fields->room);
    return r;
}

/* 0, or a status. */
static unsigned read_body(HttpExchange *x, struct HttpLogin *l, const Field *fields)
{
    const char *body = x->req->entity.base;
    size_t size = x->req->entity.len;

    if (size > BODY_MAX)
        return 413;
    l->form = is_type(x, "application/x-www-form-urlencoded");
    if (!l->form && !is_type(x, "application/json"))
        return 415;
    return (l->form ? read_form(fields, (http_span){strempty(body), size})
                    : read_json(fields, strempty(body), size)) < 0
               ? 400
               : 0;
}

static unsigned read_login(HttpExchange *x, struct HttpLogin *l)
{
    const Field fields[] = {
        {"user", l->user, sizeof(l->user)}, {"password", l->password, sizeof(l->password)}, {}};

    l->page = page_form;
    return read_body(x, l, fields);
}

static unsigned read_password(HttpExchange *x, struct HttpLogin *l)
{
    const Field fields[] = {
        {"old", l->password, sizeof(l->password)}, {"new", l->fresh, sizeof(l->fresh)}, {}};

    l->page = page_password;
    return read_body(x, l, fields);
}

/* People type what they do not see. */
static bool is_typed_twice(HttpExchange *x, const struct HttpLogin *l)
{
    char again[PASSWORD_ROOM];
    const http_span form = {strempty(x->req->entity.base), x->req->entity.len};
    bool same = http_form_find(form, "again", again, sizeof(again)) >= 0 && streq(again, l->fresh);

    explicit_bzero(again, sizeof(again));
    return same;
}

/* --- answers ------------------------------------------------------------------------------------
 */

static void login_free(struct HttpLogin *l)
{
    explicit_bzero(l, sizeof(*l));
    free(l);
}

void http_login_leave(HttpExchange *x)
{
    if (x->login)
        x->login->x = NULL;
    x->login = NULL;
}

static void set_cookie(HttpExchange *x, const char *secret)
{
    char value[HTTP_BEARER_MAX + 128];

    snprintf(value, sizeof(value), HTTP_SESSION_COOKIE "=%s" ATTRIBUTES, secret);
    http_reply_header(x, "set-cookie", value);
    explicit_bzero(value, sizeof(value));
}

void http_login_forget_cookie(HttpExchange *x)
{
    http_reply_header(x, "set-cookie", HTTP_SESSION_COOKIE "=" ATTRIBUTES "; Max-Age=0");
}

static void refuse(HttpExchange *x, const struct HttpLogin *l, unsigned status, uint64_t retry_usec)
{
    if (!l->form) {
        http_exchange_problem(x, status, retry_usec);
        return;
    }
    send_page(x, status,
              status == 401
                  ? (l->page == page_password ? "Wrong password." : "Wrong user or password.")
              : status == 403 ? "This user may not do that here."
              : status == 422 ? "A new password has 8 to 256 bytes."
              : status == 429 ? "Too many attempts. Wait a while."
                              : "This is not possible now. Try again later.",
              l->page);
}

static void on_old_ended(const char *secret, int error, uint64_t retry_usec, void *userdata)
{
}

static void logged_in(HttpExchange *x, const struct HttpLogin *l, const char *secret)
{
    set_cookie(x, secret);
    if (l->form) { /* a reload must not send the password again */
        http_reply_header(x, "location", "/system/login");
        http_reply_header(x, "cache-control", "no-store");
        http_reply_start(x, 303);
    } else {
        http_reply_header(x, "cache-control", "no-store");
        http_reply_start(x, 204);
    }
    http_reply_empty(x);
}

/* `status`: what a refusal is told by, unless the agent is away or wants a pause. */
static void conclude(struct HttpLogin *l, const char *secret, int error, unsigned status,
                     uint64_t retry_usec)
{
    HttpExchange *x = l->x;

    /* A session that nobody will use is not left behind. */
    if (error >= 0 && !x)
        (void)hybus_agent_logout(l->agent, secret, on_old_ended, NULL, NULL);
    if (x) {
        x->login = NULL;
        x->asking = false;
        if (error >= 0)
            logged_in(x, l, secret);
        else
            refuse(x, l,
                   error == -EAGAIN   ? 429
                   : error == -EACCES ? 403
                                      : status,
                   error == -EAGAIN ? retry_usec : 0);
    }
    login_free(l);
}

static void on_login(const char *secret, int error, uint64_t retry_usec, void *userdata)
{
    struct HttpLogin *l = userdata;
    bool wrong = error == -EKEYREJECTED || error == -EINVAL; /* or no name of ours */

    if (error >= 0 && !secret)
        error = -EPROTO;
    if (error >= 0 && l->x && *l->old)
        (void)hybus_agent_logout(l->agent, l->old, on_old_ended, NULL, NULL);
    conclude(l, secret, error, wrong ? 401 : 503, retry_usec);
}

/* NULL: it has been answered. */
static struct HttpLogin *start(HttpExchange *x,
                               unsigned (*read)(HttpExchange *, struct HttpLogin *))
{
    struct HttpLogin *l = calloc(1, sizeof(*l));
    unsigned status = l ? read(x, l) : 503;

    if (status) {
        http_exchange_problem(x, status, 0);
        if (l)
            login_free(l);
        return NULL;
    }
    l->x = x;
    l->agent = x->connection->http->agent;
    x->login = l;
    x->asking = true;
    return l;
}

static hybus_connection far_end(const HttpExchange *x, char *tls, size_t size)
{
    const HttpConnection *c = x->connection;

    http_tls_describe(c->socket, tls, size);
    return (hybus_connection){
        .protocol = "http", .peer = c->peer_name, .local = c->local_name, .tls = tls};
}

static void start_login(HttpExchange *x)
{
    struct HttpLogin *l = start(x, read_login);
    hybus_connection connection;
    char tls[96];
    int r;

    if (!l)
        return;
    connection = far_end(x, tls, sizeof(tls));
    if (x->session.size > 0 && x->session.size < sizeof(l->old))
        memcpy(l->old, x->session.base, x->session.size);
    r = hybus_agent_login(l->agent, &connection, l->user, l->password, on_login, l, NULL);
    explicit_bzero(l->password, sizeof(l->password));
    if (r < 0)
        on_login(NULL, r == -EINVAL ? -EKEYREJECTED : r, 0, l);
}

/* --- another password ----------------------------------------------------------------------------
 */

/* The answer is a new session: all others have ended. */
static void on_password(const char *secret, int error, uint64_t retry_usec, void *userdata)
{
    bool wrong = error == -EKEYREJECTED || error == -ENOENT;

    if (error >= 0 && !secret)
        error = -EPROTO;
    conclude(userdata, secret, error, wrong ? 401 : error == -EINVAL ? 422 : 503, retry_usec);
}

static void start_password(HttpExchange *x, http_span session)
{
    struct HttpLogin *l = start(x, read_password);
    hybus_connection connection;
    char tls[96];
    int r;

    if (!l)
        return;
    if (l->form && !is_typed_twice(x, l)) {
        http_login_leave(x);
        x->asking = false;
        send_page(x, 422, "The new passwords differ.", page_password);
        login_free(l);
        return;
    }
    connection = far_end(x, tls, sizeof(tls));
    memcpy(l->old, session.base, MIN_OF(session.size, sizeof(l->old) - 1));
    connection.bearer = l->old;
    r = hybus_agent_own_password(l->agent, &connection, l->password, l->fresh, on_password, l,
                                 NULL);
    explicit_bzero(l->password, sizeof(l->password));
    explicit_bzero(l->fresh, sizeof(l->fresh));
    if (r < 0)
        on_password(NULL, r, 0, l);
}

/* --- the end -------------------------------------------------------------------------------------
 */

static void on_logout(const char *secret, int error, uint64_t retry_usec, void *userdata)
{
    struct HttpLogin *l = userdata;
    HttpExchange *x = l->x;

    if (x) {
        x->login = NULL;
        x->asking = false;
        if (error < 0 && error != -ENOENT) {
            refuse(x, l, 503, 0);
        } else {
            http_login_forget_cookie(x);
            http_reply_header(x, "cache-control", "no-store");
            if (l->form)
                http_reply_header(x, "location", "/system/login");
            http_reply_start(x, l->form ? 303 : 204);
            http_reply_empty(x);
        }
    }
    login_free(l);
}

static void start_logout(HttpExchange *x, http_span secret)
{
    struct HttpLogin *l = calloc(1, sizeof(*l));
    char text[HTTP_BEARER_MAX + 1] = "";
    int r;

    if (!l) {
        http_exchange_problem(x, 503, 0);
        return;
    }
    memcpy(text, secret.base, MIN_OF(secret.size, sizeof(text) - 1));
    l->x = x;
    l->agent = x->connection->http->agent;
    l->form = is_type(x, "application/x-www-form-urlencoded");
    x->login = l;
    x->asking = true;
    r = *text ? hybus_agent_logout(l->agent, text, on_logout, l, NULL) : -ENOENT;
    explicit_bzero(text, sizeof(text));
    if (r < 0)
        on_logout(NULL, r, 0, l);
}

/* --- the door -----------------------------------------------------------------------------------
 */

bool http_login_takes(HttpExchange *x, http_span token)
{
    bool login = streq(x->path, "/system/login"), password = streq(x->path, "/system/password");
    bool has_page = login || password, has_session = x->session.size > 0;

    if (!has_page && !streq(x->path, "/system/logout"))
        return false;
    if (!is_method(x, "POST")) {
        if (has_page && (x->head || is_method(x, "GET")))
            send_page(x, 200, NULL,
                      !has_session ? page_form
                      : password   ? page_password
                                   : page_done);
        else {
            http_reply_header(x, "allow", has_page ? "GET, HEAD, POST" : "POST");
            http_exchange_problem(x, 405, 0);
        }
    } else if (!x->connection->tls) {
        http_exchange_problem(x, 403, 0);
    } else if (login) {
        start_login(x);
    } else if (password) {
        start_password(x, has_session ? x->session : token);
    } else {
        start_logout(x, has_session ? x->session : token);
    }
    return true;
}
