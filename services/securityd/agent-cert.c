/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-cert.h"

#include "agent-answer.h"

#define PASSPHRASE_MAX 256u

int op_cert_init(Peer *p, const json_t *q)
{
    const Subject caller = peer_subject(p);
    Wanted w;
    int r = read_credential(p, q, "cert-init", &w);

    if (r <= 0)
        return r;
    words_free(w.roles);
    r = security_init_authority(p->security, &caller);
    if (r < 0)
        return refuse(p, q, r, r == -EEXIST ? "the device has an authority already" : strerror(-r));
    if (p->socket) /* servers look for it */
        (void)agent_socket_changed(p->socket, NULL, NULL);
    return peer_send(p, answer_to(q), -1);
}

int op_cert_issue(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const Subject caller = peer_subject(p);
    const char *passphrase = string(q, "code");
    char *bundle = NULL;
    Wanted w;
    int r = read_credential(p, q, "cert-issue", &w);

    if (r <= 0)
        return r;
    if (!is_missing_or(q, "code", JSON_STRING) || strlen(strempty(passphrase)) > PASSPHRASE_MAX)
        r = -EINVAL;
    else
        r = security_issue_certificate(p->security, &caller, w.name, w.as, w.roles, w.lifetime,
                                       passphrase, &bundle, &e);
    words_free(w.roles);
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    if (p->socket)
        agent_socket_arm_expiry(p->socket);
    return send_secret(p, q, bundle);
}
