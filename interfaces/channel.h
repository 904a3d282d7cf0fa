/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The constants of docs/protocols/channel.md, version 1: the contract between the servers' core and
 * the SDKs, which otherwise share no code. */

#define CHANNEL_VERSION 1u
#define CHANNEL_HEADER_SIZE 16u
#define CHANNEL_PAYLOAD_MAX 65536u /* bytes */
#define CHANNEL_FIELDS_MAX 128u
#define CHANNEL_CREDIT_INITIAL 262144u /* bytes per stream and direction */
#define CHANNEL_REQUESTS_MAX 1024u     /* open at one app connection */
#define CHANNEL_NAMESPACE_MAX 255u     /* bytes */
#define CHANNEL_NOTIFY_ID_MAX 128u     /* bytes */
/* Of the handle of a principal: so that it is exact in JavaScript as well. */
#define CHANNEL_HANDLE_MAX ((UINT64_C(1) << 53) - 1)

#define CHANNEL_REGISTRAR_SOCKET "/run/hybridos/endpointd/channel.sock"
#define CHANNEL_SERVERS_DIRECTORY "/run/hybridos/servers"

enum channel_type {
    CHANNEL_HELLO = 0x01,
    CHANNEL_GOAWAY = 0x02,
    CHANNEL_PING = 0x03,
    CHANNEL_PONG = 0x04,
    CHANNEL_REGISTER = 0x10,
    CHANNEL_REGISTERED = 0x11,
    CHANNEL_REFUSED = 0x12,
    CHANNEL_UNREGISTER = 0x13,
    CHANNEL_SERVER = 0x14,
    CHANNEL_ENTRY = 0x15,
    CHANNEL_ATTACH = 0x16,
    CHANNEL_ATTACHED = 0x17,
    CHANNEL_START = 0x18,
    CHANNEL_REQUEST = 0x20,
    CHANNEL_DATA = 0x21,
    CHANNEL_RESPONSE = 0x22,
    CHANNEL_CANCEL = 0x23,
    CHANNEL_CREDIT = 0x24,
    CHANNEL_NOTIFY = 0x30,
    CHANNEL_WATCH = 0x31,
    CHANNEL_SESSION = 0x40,   /* reserved */
    CHANNEL_MESSAGE = 0x41,   /* reserved */
    CHANNEL_CLOSE = 0x42,     /* reserved */
    CHANNEL_IGNORABLE = 0x80, /* and above: skip what you do not know */
    CHANNEL_RESUME = 0x81,
    CHANNEL_RESUMED = 0x82,
};

enum channel_flag {
    CHANNEL_END = 0x01,
    CHANNEL_GONE = 0x02,
    CHANNEL_TEXT = 0x04,
};
