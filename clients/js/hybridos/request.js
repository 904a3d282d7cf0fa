// SPDX-License-Identifier: Apache-2.0
'use strict';
// One request: its body coming in, its answer going out, each within the other side's credit.

const wire = require('./wire.js');

const BODY_MAX = 8 * 1024 * 1024;
const BODY_TOTAL_MAX = 64 * 1024 * 1024;
const HEADERS_SIZE_MAX = 32 * 1024;

/** Request.read() met more than its limit; left uncaught the client gets `status`. */
class BodyTooLarge extends Error {
  constructor(status = 413) {
    super(status === 413 ? 'request body too large' : 'too many request bodies');
    this.status = status;
  }
}

function check([name, value]) {
  const lower = String(name).toLowerCase();
  const text = String(value);
  // eslint-disable-next-line no-control-regex
  if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(lower) || /[\x00-\x08\x0a-\x1f\x7f]/.test(text)) {
    throw new TypeError(`not a header: ${JSON.stringify(name)}`);
  }
  return [lower, text];
}

/** An answer. `body` may be text, bytes, a plain object or array (sent as JSON), or something to iterate over
 * asynchronously, text or bytes, which is streamed (Node's readable streams too). */
class Response {
  constructor(body = null, { status = 200, headers = {}, contentType } = {}) {
    if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError('status must be 200 to 599');
    this.status = status;
    let type;
    if (body === null || body === undefined) {
      this.body = Buffer.alloc(0);
    } else if (typeof body === 'string') {
      [this.body, type] = [Buffer.from(body), 'text/plain; charset=utf-8'];
    } else if (body instanceof Uint8Array) {
      [this.body, type] = [Buffer.from(body), 'application/octet-stream'];
    } else if (typeof body[Symbol.asyncIterator] === 'function') {
      this.stream = body;
    } else if (typeof body === 'object') {
      [this.body, type] = [Buffer.from(JSON.stringify(body)), 'application/json'];
    } else {
      throw new TypeError(`cannot send a ${typeof body}`);
    }
    const pairs = Array.isArray(headers) ? [...headers] : Object.entries(headers);
    if (contentType || type) pairs.unshift(['content-type', contentType || type]);
    this.fields = wire.encodeFields(pairs.map(check));
    if (pairs.length > wire.FIELDS_MAX || this.fields.length > HEADERS_SIZE_MAX) throw new RangeError('too many headers');
  }
}

const toNumber = (text, max) => (/^\d+$/.test(text ?? '') && Number(text) <= max ? Number(text) : undefined);

const toResponse = (answer) => (answer instanceof Response ? answer : new Response(answer));

/** Something to wait for that happens again and again. */
class Bell {
  #waiting = [];

  ring() {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  wait() {
    return new Promise((resolve) => { this.#waiting.push(resolve); });
  }
}

/** What a client asks. `for await (const piece of request)` reads the body in pieces, `await request.read()` whole.
 * `request.signal` is aborted when the client has gone or the deadline has passed. */
class Request {
  #link; #stream; #pieces; #allowed; #owed = 0; #bodyEnd; #credit = wire.CREDIT_INITIAL; #deadline;
  #bell = new Bell();
  #abort = new AbortController();

  constructor(link, endpoint, stream, fields, body, end) {
    const special = Object.fromEntries(fields.filter(([n]) => n.startsWith(':')));
    this.endpoint = endpoint;
    this.method = special[':method'] ?? '';
    this.path = special[':path'] ?? '';
    this.query = special[':query'] ?? '';
    this.principal = special[':principal'] ?? '';
    // For Security1.Bind. What cannot be one is anonymous: whoever binds to that holds less, not more.
    this.handle = toNumber(special[':handle'], wire.HANDLE_MAX) ?? 0;
    this.peer = special[':peer'] ?? '';
    this.protocol = special[':protocol'] ?? '';
    this.id = special[':id'] ?? '';
    this.headers = Object.create(null);
    for (const [name, value] of fields) {
      if (!name.startsWith(':')) this.headers[name] = name in this.headers ? `${this.headers[name]}, ${value}` : value;
    }
    this.#deadline = Date.now() + (toNumber(special[':deadline'], 0xffffffff) ?? Infinity);
    this.#link = link;
    this.#stream = stream;
    this.#pieces = body.length ? [body] : [];
    this.#allowed = wire.CREDIT_INITIAL - body.length;
    this.#bodyEnd = end;
    this.cancelled = 0; // the status, once cancelled
    this.begun = false;
  }

  /** The path below the namespace, "/" at least. */
  get subpath() { return this.path.slice(this.endpoint.namespace.length) || '/'; }

  /** Milliseconds left until the server answers 504 itself. */
  get deadline() { return Math.max(0, this.#deadline - Date.now()); }

  get signal() { return this.#abort.signal; }

  async* [Symbol.asyncIterator]() {
    for (;;) {
      this.signal.throwIfAborted();
      while (this.#pieces.length) {
        const piece = this.#pieces.shift();
        yield piece;
        this.#owed += piece.length;
        // In few frames: half the window is enough to keep the client sending.
        if (!this.#bodyEnd && !this.cancelled && this.#allowed < wire.CREDIT_INITIAL / 2) {
          this.#allowed += this.#owed;
          this.#link.send(wire.CREDIT, { stream: this.#stream, value: this.#owed });
          this.#owed = 0;
        }
      }
      if (this.#bodyEnd) return;
      await this.#bell.wait();
    }
  }

  async read(limit = BODY_MAX) {
    const { app } = this.endpoint;
    const pieces = [];
    let size = 0;
    try {
      for await (const piece of this) {
        pieces.push(piece);
        size += piece.length;
        app.collected += piece.length;
        if (size > limit) throw new BodyTooLarge(413);
        if (app.collected > BODY_TOTAL_MAX) throw new BodyTooLarge(503);
      }
    } finally {
      app.collected -= size;
    }
    return Buffer.concat(pieces);
  }

  async text() { return (await this.read()).toString(); }

  async json() { return JSON.parse(await this.text()); }

  // What the link says.

  _data(f) {
    if (this.#bodyEnd || f.payload.length > this.#allowed) throw new wire.ProtocolError('data beyond credit or end');
    this.#allowed -= f.payload.length;
    this.#bodyEnd = (f.flags & wire.END) !== 0;
    if (f.payload.length) this.#pieces.push(f.payload);
    this.#bell.ring();
  }

  _credit(value) {
    if (this.#credit + value > 0xffffffff) throw new wire.ProtocolError('too much credit');
    this.#credit += value;
    this.#bell.ring();
  }

  _cancel(status) {
    this.cancelled = status;
    const error = new Error(`request cancelled (${status})`);
    error.name = 'AbortError';
    this.#abort.abort(error);
    this.#bell.ring();
  }

  // What the handler answers.

  async _answer(response) {
    const { body, fields } = response;
    const first = body ? body.subarray(0, Math.min(this.#credit, wire.PAYLOAD_MAX - fields.length)) : Buffer.alloc(0);
    const end = body !== undefined && first.length === body.length;
    this.begun = true;
    this.#credit -= first.length;
    this.#link.send(wire.RESPONSE, {
      flags: end ? wire.END : 0, code: response.status, stream: this.#stream, value: fields.length,
    }, fields, first);
    if (end) return;
    if (body) {
      await this.#write(body.subarray(first.length), true);
      return;
    }
    for await (const piece of response.stream) {
      await this.#write(typeof piece === 'string' ? Buffer.from(piece) : piece, false);
    }
    this.#link.send(wire.DATA, { flags: wire.END, stream: this.#stream });
  }

  async #write(data, last) {
    while (data.length) {
      this.signal.throwIfAborted();
      if (this.#credit === 0) {
        await this.#bell.wait();
        continue;
      }
      const n = Math.min(data.length, this.#credit, wire.PAYLOAD_MAX);
      this.#link.send(wire.DATA, { flags: last && n === data.length ? wire.END : 0, stream: this.#stream }, data.subarray(0, n));
      this.#credit -= n;
      data = data.subarray(n);
    }
    this.signal.throwIfAborted();
  }
}

module.exports = { BodyTooLarge, Request, Response, toResponse };
