/* SPDX-License-Identifier: Apache-2.0 */
/* The FastCGI peer: libfcgi with one accepting thread per argument, on the socket given. */
#include <fcgiapp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "body.h"

static int listen_fd;

static void *serve(void *unused)
{
    FCGX_Request request;

    if (FCGX_InitRequest(&request, listen_fd, 0))
        return NULL;
    while (FCGX_Accept_r(&request) == 0) {
        FCGX_FPrintF(request.out, "Content-Type: %s\r\nContent-Length: %d\r\n\r\n", BODY_TYPE,
                     BODY_SIZE);
        FCGX_PutStr(body, BODY_SIZE, request.out);
        FCGX_Finish_r(&request);
    }
    return unused;
}

int main(int argc, char *argv[])
{
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    pthread_t thread;

    if (argc < 2 || FCGX_Init() || (listen_fd = FCGX_OpenSocket(argv[1], 512)) < 0) {
        fprintf(stderr, "usage: %s SOCKET [THREADS]\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < threads; i++)
        if (pthread_create(&thread, NULL, serve, NULL))
            return 1;
    serve(NULL);
    return 0;
}
