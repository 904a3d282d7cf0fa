// SPDX-License-Identifier: Apache-2.0
'use strict';
// The device's log, with or without an app:
//
//   const { log } = require('hybridos');
//   log.warning('the pump does not answer', { PUMP: '2' });
//   log.send(log.INFO, 'measured', { SENSOR: Buffer.from('kitchen'), PIN: new log.Secret('1234') });
//
// Node has no Unix datagrams, so this speaks the stream of docs/protocols/log.md. A call never waits: the kernel
// takes what it has room for, at most OUTPUT_MAX more wait in memory, what is beyond is counted, and the count goes with the next
// record. When h-logged is not there, and also when the standard error output is a terminal, the record is
// written there as a line "<N>identifier: message FIELD=value".

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const SOCKET = '/run/hybridos/logged/log-stream.sock';
const OUTPUT_MAX = 256 * 1024;
const AGAIN_MILLISECONDS = 1000;
const LOG_USER = 1 << 3;
const FIELDS_MAX = 120; // of the caller
const SIZE_MAX = 61440;
const NAME = /^[A-Z][A-Z0-9_]{0,63}$/;
const CODES = {
  MESSAGE: 1, IDENTIFIER: 3, CODE_FILE: 4, CODE_LINE: 5, ERRNO: 6, HOSTNAME: 7, PROCID: 8, MSGID: 9, STRUCTURED_DATA: 10,
};
const OTHERS = ['UNIT', 'PEER', 'DROPPED', 'AUDIT']; // h-logged's and h-securityd's own
const SECRET = 0x80;
const PRIORITIES = { EMERG: 0, ALERT: 1, CRIT: 2, ERR: 3, WARNING: 4, NOTICE: 5, INFO: 6, DEBUG: 7 };

/** The value of a field that only whoever holds log.secrets may see. */
class Secret {
  #value;

  constructor(value) { this.#value = value; }

  bytes() { return bytes(this.#value); }
}

function bytes(value) {
  if (value instanceof Secret) return value.bytes();
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  return Buffer.from(String(value));
}

function field(name, value) {
  const code = Object.hasOwn(CODES, name) ? CODES[name] : 0;
  if (OTHERS.includes(name) || !NAME.test(name)) throw new TypeError(`not the name of a field: ${JSON.stringify(name)}`);
  const data = bytes(value);
  if (data.length > SIZE_MAX) throw new RangeError('a record is at most 60 KiB');
  const head = [code | (value instanceof Secret ? SECRET : 0), ...(code ? [] : [name.length, ...Buffer.from(name)]),
    data.length & 0xff, data.length >> 8];
  return Buffer.concat([Buffer.from(head), data]);
}

/** Without half a character at the end. */
function cut(text, size) {
  if (text.length <= size) return text;
  let end = size;
  while (end > 0 && size - end < 3 && (text[end] & 0xc0) === 0x80) end--;
  return text.subarray(0, (text[end] & 0xc0) === 0x80 ? size : end);
}

// Byte by byte: the line goes out as it is.
const escape = (data) => Buffer.from(data.toString('latin1').replace(/[\x00-\x1f\x7f]/g, // eslint-disable-line no-control-regex
  (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`), 'latin1');

class Sender {
  #socket = null; #connected = false; #waiting = []; #waitingSize = 0; #dropped = 0; #awayUntil = 0;

  constructor() {
    this.identifier = path.basename(process.argv[1] ?? 'node');
    const level = process.env.HYBRIDOS_LOG_LEVEL ?? '';
    this.level = /^[0-7]$/.test(level) ? Number(level) : PRIORITIES.INFO;
    // What is still here then does not get lost.
    process.on('exit', () => this.#giveUp());
  }

  send(priority, message, fields) {
    if (!Number.isInteger(priority) || priority < 0 || priority > 191) throw new RangeError(`not a priority: ${priority}`);
    const names = Object.keys(fields);
    if (names.length > FIELDS_MAX) throw new RangeError('too many fields');
    const parts = names.map((name) => field(name, fields[name]));
    if (!names.includes('IDENTIFIER')) parts.push(field('IDENTIFIER', this.identifier));
    const size = parts.reduce((n, p) => n + p.length, 0);
    const hasMessage = message !== null && message !== undefined;
    if (size > SIZE_MAX - (hasMessage ? 3 : 0)) throw new RangeError('a record is at most 60 KiB');
    if (hasMessage) parts.push(field('MESSAGE', cut(bytes(message), SIZE_MAX - 3 - size)));
    const record = { priority: priority > 7 ? priority : priority | LOG_USER, body: Buffer.concat(parts), message, fields };
    if (process.stderr.isTTY) this.#toStderr(record);
    return this.#toLogged(record);
  }

  #toLogged(record) {
    if (!this.#socket && Date.now() < this.#awayUntil) {
      if (!process.stderr.isTTY) this.#toStderr(record);
      return true;
    }
    const queued = this.#connected ? this.#socket.writableLength : this.#waitingSize;
    if (queued + record.body.length > OUTPUT_MAX) {
      this.#dropped = Math.min(this.#dropped + 1, 0xffffffff);
      return false;
    }
    record.dropped = this.#dropped;
    this.#dropped = 0;
    if (this.#connected) {
      this.#write(record);
    } else {
      this.#waiting.push(record);
      this.#waitingSize += record.body.length;
      if (!this.#socket) this.#connect();
    }
    return true;
  }

  #write(record) {
    const head = Buffer.alloc(12);
    head.writeUInt32LE(8 + record.body.length, 0);
    head.write('HL\x01', 4, 'latin1');
    head.writeUInt8(record.priority, 7);
    const { dropped } = record;
    head.writeUInt32LE(dropped, 8);
    const socket = this.#socket;
    socket.write(Buffer.concat([head, record.body]), (e) => {
      if (!e) { // 'drain' would tell only of a write that came back with false
        if (socket.writableLength === 0) socket.unref();
        return;
      }
      // h-logged went away, and this was not taken.
      this.#dropped = Math.min(this.#dropped + dropped, 0xffffffff);
      if (!process.stderr.isTTY) this.#toStderr(record);
    });
    // The program goes on living only for what is still here.
    if (socket.writableLength > 0) socket.ref();
  }

  #connect() {
    const socket = net.connect(process.env.HYBRIDOS_LOG_STREAM ?? SOCKET);
    this.#socket = socket;
    socket.on('connect', () => {
      this.#connected = true;
      for (const record of this.#waiting.splice(0)) this.#write(record);
      this.#waitingSize = 0;
      if (socket.writableLength === 0) socket.unref();
    });
    socket.on('data', () => {}); // nothing comes; but so the end is seen
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      if (!this.#connected) this.#awayUntil = Date.now() + AGAIN_MILLISECONDS;
      this.#socket = null;
      this.#connected = false;
      this.#giveUp();
    });
  }

  #giveUp() {
    for (const record of this.#waiting.splice(0)) if (!process.stderr.isTTY) this.#toStderr(record);
    this.#waitingSize = 0;
  }

  #toStderr({ priority, message, fields }) {
    const parts = [escape(bytes(fields.IDENTIFIER ?? this.identifier)), Buffer.from(': ')];
    if (message !== null && message !== undefined) parts.push(escape(bytes(message)));
    for (const [name, value] of Object.entries(fields)) {
      if (name === 'IDENTIFIER' || name.startsWith('CODE_')) continue;
      const data = bytes(value);
      parts.push(Buffer.from(` ${name}=`),
        value instanceof Secret ? Buffer.from(`(secret, ${data.length} bytes)`) : escape(data));
    }
    const line = Buffer.concat(parts).subarray(0, 2040);
    try {
      fs.writeSync(2, Buffer.concat([Buffer.from(`<${priority & 7}>`), line, Buffer.from('\n')]));
    } catch {
      // There is nobody left to tell.
    }
  }
}

let sender = null;
const theSender = () => (sender ??= new Sender());

/** One record. False: there was no room, it was counted. Throws for names that are not [A-Z0-9_] or longer than 64, and for more than
 * 60 KiB or 120 fields (a message that does not fit is cut). */
function send(priority, message, fields = {}) {
  const s = theSender();
  return (priority & 7) > s.level || s.send(priority, message, fields);
}

module.exports = {
  ...PRIORITIES,
  Secret,
  send,
  error: (message, fields) => send(PRIORITIES.ERR, message, fields),
  warning: (message, fields) => send(PRIORITIES.WARNING, message, fields),
  notice: (message, fields) => send(PRIORITIES.NOTICE, message, fields),
  info: (message, fields) => send(PRIORITIES.INFO, message, fields),
  debug: (message, fields) => send(PRIORITIES.DEBUG, message, fields),
  /** What the program calls itself; by default its file's name. */
  setIdentifier(identifier) { theSender().identifier = identifier; },
  /** Leaves out what is of lesser priority; by default INFO, or what $HYBRIDOS_LOG_LEVEL says. */
  setLevel(maxPriority) { theSender().level = maxPriority; },
};
