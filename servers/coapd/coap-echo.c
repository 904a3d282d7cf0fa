/* SPDX-License-Identifier: Apache-2.0 */
/* A datagram's sender may be anybody's address. Until a client has shown that it receives what we
 * send there, it gets about three times what it sent (RFC 9175, 2.4 and 2.6): answers come in small
 * blocks, with an Echo option; its next request may carry that option, and a client without Echo is
 * served as slowly as it asks. An acknowledgement of a notification shows the same. Nothing is kept
 * for it: the option's value tells time and address by a key of this process. */

#include "coapd.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define LIFETIME_SECONDS 120u
#define AMPLIFICATION 3u
#define OVERHEAD 24u          /* of an answer: header, token, the options of a block */
#define RETRANSMISSIONS 1u    /* to somebody who may not be there */
#define RETRANSMISSIONS_ALL 4 /* MAX_RETRANSMIT (RFC 7252, 4.8) */

bool coapd_verify_valid(const char *verify)
{
    return streq(verify, "remote") || streq(verify, "always") || streq(verify, "never");
}

void coapd_verified(CoapdSession *s)
{
    if (s->verified)
        return;
    s->verified = true; /* the library's road: others begin so */
    coap_session_set_max_retransmit(s->session, RETRANSMISSIONS_ALL);
}

/* Nobody outside can send from a loopback address. */
void coapd_echo_begin(CoapdSession *s)
{
    const char *verify = s->coapd->settings->verify;
    bool local = endpoint_address_is_loopback(&s->remote);

    s->verified = streq(verify, "never") || (local && streq(verify, "remote"));
    s->proven = s->verified;
    if (!s->verified)
        coap_session_set_max_retransmit(s->session, RETRANSMISSIONS);
}

static void sign(const CoapdSession *s, uint32_t seconds, uint8_t ret[COAPD_ECHO_SIZE])
{
    unsigned char text[4 + ENDPOINT_ADDRESS_TEXT] = {}, digest[EVP_MAX_MD_SIZE] = {};
    unsigned size = 0;

    for (int i = 0; i < 4; i++)
        ret[i] = text[i] = (uint8_t)(seconds >> (24 - 8 * i));
    endpoint_address_format(&s->remote.sa, (char *)text + 4);
    HMAC(EVP_sha256(), s->coapd->echo_key, sizeof(s->coapd->echo_key), text, sizeof(text), digest,
         &size);
    memcpy(ret + 4, digest, COAPD_ECHO_SIZE - 4);
}

static uint32_t seconds_now(void)
{
    return (uint32_t)(timer_now() / 1000000u);
}

void coapd_echo_make(const CoapdSession *s, uint8_t ret[COAPD_ECHO_SIZE])
{
    sign(s, seconds_now(), ret);
}

void coapd_echo_check(CoapdSession *s, const uint8_t *echo, size_t size)
{
    uint8_t expected[COAPD_ECHO_SIZE];
    uint32_t seconds = 0;

    if (s->proven || size != sizeof(expected))
        return;
    for (int i = 0; i < 4; i++)
        seconds = seconds << 8 | echo[i];
    sign(s, seconds, expected);
    if (CRYPTO_memcmp(expected, echo, size) != 0 || seconds_now() - seconds > LIFETIME_SECONDS)
        return;
    s->proven = true;
    coapd_verified(s);
}

uint8_t coapd_echo_szx(const CoapdSession *s, uint8_t szx, size_t request_size)
{
    size_t budget = AMPLIFICATION * request_size;

    if (s->verified)
        return szx;
    while (szx > 0 && coapd_block_size(szx) + OVERHEAD > budget)
        szx--;
    return szx;
}
