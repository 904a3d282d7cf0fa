/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Every bound of the core that is not a setting (those are in endpoint.h), in one place. Each one
 * stands between one misbehaving app or client and everybody else. */

#include <channel.h>

#define LIMIT_NAMESPACES 4096u             /* entries of the table */
#define LIMIT_RULES 64u                    /* of one entry */
#define LIMIT_RULE_SUBPATH 255u            /* bytes */
#define LIMIT_PERMISSION 320u              /* bytes of a name: "endpoint.write:" and a namespace */
#define LIMIT_PERMISSION_PAGE_BYTES 49152u /* of names, so that a question fits into one packet */
#define LIMIT_PERMISSION_PAGES 64u         /* of HYBUS_AGENT_PERMISSIONS_MAX names each */

#define LIMIT_LINKS 512u               /* app connections in all */
#define LIMIT_LINKS_UID 16u            /* of one uid */
#define LIMIT_ATTACHMENTS 64u          /* of one app connection, waiting ones included */
#define LIMIT_READ_TURN (256u * 1024u) /* bytes taken from one connection per turn of the loop */
#define LIMIT_OUT_HIGH (1024u * 1024u) /* bytes queued to an app: no new requests, no more body */
#define LIMIT_OUT_MAX                                                                              \
    (2048u * 1024u) /* bytes queued to an app that does not read: it is cut off                    \
                     */
#define LIMIT_HELLO_USEC (5u * 1000u * 1000u)  /* until HELLO */
#define LIMIT_ATTACH_USEC (5u * 1000u * 1000u) /* until the table has caught up with an ATTACH */
#define LIMIT_GRACE_USEC (10u * 1000u * 1000u) /* until a returned registrar has its apps again */

#define LIMIT_PATH 4096u                       /* bytes of a request's path; longer: 414 */
#define LIMIT_QUERY 16384u                     /* bytes; longer: 414 */
#define LIMIT_HEADERS 100u                     /* fields of a request; more: 431 */
#define LIMIT_FIELDS 57344u                    /* bytes of a request's fields; more: 431 */
#define LIMIT_WAITING 1024u                    /* requests that wait for a row, a unit or an app */
#define LIMIT_WAITING_PEER 64u                 /* of one peer */
#define LIMIT_HELD_BYTES (32u * 1024u * 1024u) /* what waiting requests hold, bodies included */
#define LIMIT_SPARE_REQUESTS 512u /* freed request objects that are kept for the next */
#define LIMIT_DECISIONS 4u        /* times that one request is decided anew */
#define LIMIT_ROWS_ASKED 256u     /* rows asked for at the same time, of 1,024 questions */

/* Over the bus. Both buses count a reply as pending until it comes, whatever we think of it, and
 * dbus-daemon refuses a connection's calls to everybody when there are 128. Beyond 64 descriptors
 * that are on their way it reads no more of what the connection sends. */
#define LIMIT_BUS_REQUESTS 96u                   /* calls without an answer */
#define LIMIT_BUS_RESPONDER 48u                  /* of these with one app; the next wait */
#define LIMIT_BUS_WATCHES 16u                    /* calls of Watch without an answer, one for each app */
#define LIMIT_BUS_WATCHES_UID 4u                 /* of these to apps of one uid; the next wait */
#define LIMIT_BUS_FDS 56u                        /* in these calls */
#define LIMIT_BUS_SPOOL (64u * 1024u * 1024u)    /* bytes of request bodies in memfds */
#define LIMIT_BUS_WAIT_USEC (2u * 1000u * 1000u) /* for a place; then 503 */
#define LIMIT_BUS_TURN 128u                      /* messages taken in one turn of the loop */
#define LIMIT_BUS_INLINE (256u * 1024u)          /* larger bodies travel as a sealed memfd */
#define LIMIT_BUS_REPLY (64u * 1024u * 1024u)    /* bytes of a memfd that an app answers with */

#define LIMIT_VALUES_SHARE 8u /* one namespace keeps at most this part of all values */
#define LIMIT_VALUES_BYTES (16u * 1024u * 1024u) /* of all last values together */
