/* SPDX-License-Identifier: Apache-2.0 */
/* A DTLS client for features.py: dtls PORT IDENTITY KEY. Standard input is a packet socket; each packet
 * on it is a datagram inside. Its first packet names the cipher, when the handshake is done. */

#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char *identity, *key;

static unsigned on_key(SSL *ssl, const char *hint, char *name, unsigned room, unsigned char *psk,
                       unsigned psk_room)
{
    (void)ssl;
    (void)hint;
    if (strlen(identity) >= room || strlen(key) > psk_room)
        return 0;
    strcpy(name, identity);
    memcpy(psk, key, strlen(key));
    return (unsigned)strlen(key);
}

static struct sockaddr_in to;

static int connect_to(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    to = (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        exit(2);
    return fd;
}

static void carry(SSL *ssl, int fd)
{
    struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    char bytes[4096];

    while (poll(p, 2, -1) > 0) {
        if (p[0].revents) {
            ssize_t n = recv(0, bytes, sizeof bytes, 0);

            if (n <= 0)
                break;
            if (SSL_write(ssl, bytes, (int)n) <= 0)
                break;
        }
        if (p[1].revents) {
            int n = SSL_read(ssl, bytes, sizeof bytes);

            if (n > 0)
                (void)!send(0, bytes, (size_t)n, MSG_NOSIGNAL);
            else if (SSL_get_error(ssl, n) != SSL_ERROR_WANT_READ)
                break;
        }
    }
    SSL_shutdown(ssl);
}

int main(int argc, char *argv[])
{
    SSL_CTX *context = SSL_CTX_new(DTLS_client_method());
    struct timeval wait = {.tv_sec = 5};
    int fd;
    SSL *ssl;
    BIO *bio;

    if (argc < 4 || !context)
        return 2;
    identity = argv[2];
    key = argv[3];
    if (*key)
        SSL_CTX_set_psk_client_callback(context, on_key);
    SSL_CTX_set_cipher_list(context, argc > 4 ? argv[4] : *key ? "PSK" : "ALL:!PSK");
    fd = connect_to(atoi(argv[1]));
    bio = BIO_new_dgram(fd, BIO_NOCLOSE);
    ssl = SSL_new(context);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    BIO_ctrl(bio, BIO_CTRL_DGRAM_SET_CONNECTED, 0, &to);
    SSL_set_bio(ssl, bio, bio);
    if (SSL_connect(ssl) != 1)
        return 1;
    (void)!send(0, SSL_get_cipher_name(ssl), strlen(SSL_get_cipher_name(ssl)), MSG_NOSIGNAL);
    carry(ssl, fd);
    return 0;
}
