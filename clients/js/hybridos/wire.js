// SPDX-License-Identifier: Apache-2.0
'use strict';
// The codec of docs/protocols/channel.md, version 1. Knows no socket.

const HEADER_SIZE = 16;
const wire = {
  VERSION: 1,
  PAYLOAD_MAX: 65536,
  FIELDS_MAX: 128,
  CREDIT_INITIAL: 262144,
  REQUESTS_MAX: 1024,
  NOTIFY_ID_MAX: 128,
  HANDLE_MAX: Number.MAX_SAFE_INTEGER,
  RULES_MAX: 32, RULE_MAX: 1024, TITLE_MAX: 256, ATTRIBUTES_MAX: 512,
  REGISTRAR_SOCKET: '/run/hybridos/endpointd/channel.sock',

  HELLO: 0x01, GOAWAY: 0x02, PING: 0x03, PONG: 0x04,
  REGISTER: 0x10, REGISTERED: 0x11, REFUSED: 0x12, UNREGISTER: 0x13, SERVER: 0x14,
  ATTACH: 0x16, ATTACHED: 0x17,
  REQUEST: 0x20, DATA: 0x21, RESPONSE: 0x22, CANCEL: 0x23, CREDIT: 0x24,
  NOTIFY: 0x30, WATCH: 0x31,
  SESSION: 0x40, MESSAGE: 0x41, CLOSE: 0x42,
  IGNORABLE: 0x80,
  RESUME: 0x81, RESUMED: 0x82,

  END: 0x01, GONE: 0x02,
};

/** The peer broke the format; the connection ends. */
class ProtocolError extends Error {}

function encode(type, { flags = 0, code = 0, stream = 0, value = 0 } = {}, ...payload) {
  const header = Buffer.allocUnsafe(HEADER_SIZE);
  header.writeUInt32LE(payload.reduce((n, p) => n + p.length, 0), 0);
  header.writeUInt8(type, 4);
  header.writeUInt8(flags, 5);
  header.writeUInt16LE(code, 6);
  header.writeUInt32LE(stream, 8);
  header.writeUInt32LE(value, 12);
  return Buffer.concat([header, ...payload]);
}

/** Takes bytes as they come, gives whole frames. */
class Decoder {
  #rest = Buffer.alloc(0);

  * feed(data) {
    this.#rest = this.#rest.length ? Buffer.concat([this.#rest, data]) : data;
    while (this.#rest.length >= HEADER_SIZE) {
      const b = this.#rest;
      const length = b.readUInt32LE(0);
      if (length > wire.PAYLOAD_MAX) throw new ProtocolError('frame too long');
      const end = HEADER_SIZE + length;
      if (b.length < end) return;
      this.#rest = b.subarray(end);
      yield {
        type: b[4], flags: b[5], code: b.readUInt16LE(6), stream: b.readUInt32LE(8),
        value: b.readUInt32LE(12), payload: b.subarray(HEADER_SIZE, end),
      };
    }
  }
}

function encodeFields(fields) {
  const out = [];
  for (const [name, value] of fields) {
    const n = Buffer.from(name);
    const v = Buffer.from(value);
    if (n.length === 0 || n.length > 0xffff || v.length > 0xffff) throw new RangeError('field too long or without a name');
    const sizes = Buffer.allocUnsafe(4);
    sizes.writeUInt16LE(n.length, 0);
    sizes.writeUInt16LE(v.length, 2);
    out.push(sizes, n, v);
  }
  return Buffer.concat(out);
}

function decodeFields(data) {
  const fields = [];
  for (let at = 0; at < data.length;) {
    if (data.length - at < 4) throw new ProtocolError('half a field');
    const n = data.readUInt16LE(at);
    const v = data.readUInt16LE(at + 2);
    at += 4;
    if (n === 0 || data.length - at < n + v) throw new ProtocolError('broken field');
    fields.push([data.toString('utf8', at, at + n), data.toString('utf8', at + n, at + n + v)]);
    at += n + v;
    if (fields.length > wire.FIELDS_MAX) throw new ProtocolError('too many fields');
  }
  return fields;
}

module.exports = { ...wire, Decoder, ProtocolError, decodeFields, encode, encodeFields };
