// SPDX-License-Identifier: Apache-2.0
'use strict';
// The connections: to the registrar and to each server. One write for each turn of the loop.

const net = require('node:net');
const wire = require('./wire.js');
const { BodyTooLarge, Request, Response, toResponse } = require('./request.js');

const BACKOFF_MIN = 20;
const BACKOFF_MAX = 1000;
const OUTPUT_HIGH = 1024 * 1024;
const SERVERS_MAX = 16;
const WATCHES_MAX = 2048;

class Backoff {
  #pause = 0;

  next() {
    this.#pause = Math.min(this.#pause * 2 || BACKOFF_MIN, BACKOFF_MAX);
    return this.#pause;
  }

  reset() { this.#pause = 0; }
}

/** A connection that comes back by itself until it is ended. */
class Link {
  #socket = null; #out = []; #backoff = new Backoff(); #timer; #ended = false; #decoder;

  constructor(app, path) {
    this.app = app;
    this.path = path;
    this.understands = 0; // of the types that may be ignored
    this.up = false; // HELLO has come
    this.stale = false;
    this.draining = false;
    this.drained = false;
    this.onEnded = () => {};
  }

  get connected() { return this.#socket !== null; }

  get queued() { return this.#socket ? this.#socket.writableLength : 0; }

  start() {
    const socket = net.connect(this.path);
    this.#decoder = new wire.Decoder();
    socket.on('connect', () => {
      this.#socket = socket;
      this.send(wire.HELLO, { value: wire.VERSION }, wire.encodeFields([[':role', 'app'], [':name', this.app.name]]));
      this._connected();
    });
    socket.on('data', (data) => this.#input(socket, data));
    socket.on('drain', () => socket.resume());
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => this.#closed(socket));
    this.pending = socket;
  }

  /** For good. */
  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.close();
    if (!this.#socket) this.pending?.destroy();
  }

  close() {
    this.#flush();
    this.#socket?.end();
    this.#socket?.destroySoon();
  }

  #closed(socket) {
    if (this.#socket === socket) {
      this.#socket = null;
      this.#out = [];
      this.up = this.draining = this.drained = false;
      this._lost();
    } else if (this.stale) {
      this.#ended = true;
    }
    if (this.#ended) this.onEnded();
    else this.#timer = setTimeout(() => this.start(), this.#backoff.next());
  }

  #input(socket, data) {
    try {
      for (const f of this.#decoder.feed(data)) {
        if (this.#socket !== socket) return;
        this.#frame(f);
      }
    } catch (e) {
      if (!(e instanceof wire.ProtocolError)) throw e;
      this.app.warn(`${this.path}: ${e.message}`);
      socket.destroy();
    }
  }

  #frame(f) {
    if (!this.up) {
      if (f.type !== wire.HELLO || f.value < 1 || f.stream !== 0) throw new wire.ProtocolError('no HELLO');
      wire.decodeFields(f.payload);
      this.up = true;
      this.#backoff.reset();
    } else if (f.type === wire.PING) {
      this.send(wire.PONG, { value: f.value });
    } else if (f.type === wire.PONG) {
      this.drained = this.app.stopping;
      this.app._checkStopped();
    } else if (f.type === wire.GOAWAY) {
      this.draining = true;
      this._drain();
    } else if (f.type === wire.HELLO) {
      throw new wire.ProtocolError('second HELLO');
    } else if (f.type < wire.IGNORABLE || f.type === this.understands) {
      this._frame(f);
    }
  }

  send(type, options, ...payload) {
    if (!this.#socket) return;
    if (this.#out.length === 0) setImmediate(() => this.#flush());
    this.#out.push(wire.encode(type, options, ...payload));
  }

  #flush() {
    if (!this.#socket || this.#out.length === 0 || !this.#socket.writable) return;
    const data = Buffer.concat(this.#out);
    this.#out = [];
    // A peer that does not take our answers gets no further requests in.
    if (!this.#socket.write(data) && this.#socket.writableLength > OUTPUT_HIGH) this.#socket.pause();
  }

  _connected() {}

  _lost() {}

  _drain() {}
}

class RegistrarLink extends Link {
  _connected() {
    for (const endpoint of this.app.endpoints.values()) this.ask(endpoint);
  }

  ask(endpoint) {
    if (endpoint.refused || !this.connected) return;
    const fields = [[':namespace', endpoint.namespace]];
    if (endpoint.key) fields.push([':key', endpoint.key]);
    for (const rule of endpoint.rules) fields.push([':rule', rule]);
    if (endpoint.title) fields.push([':title', endpoint.title]);
    if (endpoint.attributes) fields.push([':attributes', endpoint.attributes]);
    if (endpoint.takeover) fields.push([':takeover', '1']);
    endpoint.id = this.app._newId();
    this.send(wire.REGISTER, { stream: endpoint.id }, wire.encodeFields(fields));
  }

  _lost() {
    for (const endpoint of this.app.endpoints.values()) Object.assign(endpoint, { registered: false, id: 0 });
    for (const server of this.app.servers.values()) server.stale = true;
  }

  _frame(f) {
    const fields = Object.fromEntries(wire.decodeFields(f.payload));
    if (f.type === wire.REGISTERED) this.#registered(f, fields);
    else if (f.type === wire.REFUSED) this.#refused(f, fields);
    else if (f.type === wire.SERVER) this.#server(f, fields);
    else throw new wire.ProtocolError(`unexpected frame ${f.type}`);
  }

  #find(id) {
    return [...this.app.endpoints.values()].find((e) => id && e.id === id);
  }

  #registered(f, fields) {
    const key = fields[':key'] ?? '';
    if (!key || key.length > 32) throw new wire.ProtocolError('no key');
    const endpoint = this.#find(f.stream);
    if (!endpoint) return;
    if (endpoint.key !== key) {
      for (const server of this.app.servers.values()) server.forget(endpoint);
      endpoint.key = key;
    }
    endpoint.registered = true;
    endpoint.backoff.reset();
    for (const server of this.app.servers.values()) server.attach(endpoint);
    endpoint._tellState(200, '');
  }

  #refused(f, fields) {
    const endpoint = this.#find(f.stream);
    if (!endpoint) return;
    const reason = (fields[':reason'] ?? '') + (fields[':audit'] ? ` (audit ${fields[':audit']})` : '');
    Object.assign(endpoint, { registered: false, id: 0 });
    if (f.code === 429 || f.code === 503) {
      setTimeout(() => {
        if (this.app.endpoints.get(endpoint.namespace) === endpoint && !endpoint.id) this.ask(endpoint);
      }, endpoint.backoff.next()).unref();
    } else {
      Object.assign(endpoint, { refused: true, key: '' });
      for (const server of this.app.servers.values()) server.forget(endpoint);
    }
    endpoint._tellState(f.code, reason);
  }

  #server(f, fields) {
    const { ':name': name, ':socket': path = '' } = fields;
    if (!name) throw new wire.ProtocolError('server without a name');
    const known = this.app.servers.get(name);
    if (f.flags & wire.GONE) this.app._removeServer(name);
    else if (!path.startsWith('/')) throw new wire.ProtocolError('server without a socket');
    else if (known && known.path === path) known.stale = false;
    else if (known || this.app.servers.size < SERVERS_MAX) {
      this.app._removeServer(name);
      this.app._addServer(name, path);
    }
  }
}

class ServerLink extends Link {
  understands = wire.RESUME;
  requests = new Map(); // by stream
  attachments = new Map(); // stream: { endpoint, up }
  watches = new Map(); // "namespace path": count
  #backoffs = new Map(); // by endpoint
  #highest = 0;

  _connected() {
    for (const endpoint of this.app.endpoints.values()) this.attach(endpoint);
  }

  attach(endpoint) {
    if (!endpoint.key || !this.connected || this.draining || this.app.stopping
      || [...this.attachments.values()].some((a) => a.endpoint === endpoint)) return;
    const id = this.app._newId();
    this.attachments.set(id, { endpoint, up: false });
    this.send(wire.ATTACH, { stream: id }, wire.encodeFields([[':namespace', endpoint.namespace], [':key', endpoint.key],
      ...(endpoint.resumes ? [[':resume', '1']] : [])]));
  }

  /** Its stream, when the server has confirmed it; or 0. */
  attachment(endpoint) {
    for (const [id, a] of this.attachments) if (a.up && a.endpoint === endpoint) return id;
    return 0;
  }

  forget(endpoint) {
    for (const [id, a] of this.attachments) if (a.endpoint === endpoint) this.attachments.delete(id);
    for (const [stream, request] of this.requests) {
      if (request.endpoint === endpoint) {
        this.send(wire.CANCEL, { code: 500, stream });
        this.#cancel(stream, 500);
      }
    }
    this.#forgetWatches(endpoint);
  }

  #forgetWatches(endpoint) {
    for (const [key] of this.watches) {
      const [namespace, path] = key.split(' ', 1).concat(key.slice(key.indexOf(' ') + 1));
      if (endpoint && endpoint.namespace !== namespace) continue;
      this.watches.delete(key);
      this.app._tellWatch(namespace, path);
    }
  }

  _lost() {
    this.attachments.clear();
    this.#backoffs.clear();
    this.#highest = 0;
    for (const stream of [...this.requests.keys()]) this.#cancel(stream, 502);
    this.#forgetWatches(null);
    this.app._checkStopped();
  }

  _drain() {
    if (this.draining && this.requests.size === 0) this.close();
  }

  _frame(f) {
    switch (f.type) {
      case wire.REQUEST:
        this.#request(f);
        break;
      case wire.DATA:
      case wire.CREDIT:
      case wire.CANCEL: {
        const request = this.requests.get(f.stream);
        if (!request) this.#checkWas(f.stream);
        else if (f.type === wire.DATA) request._data(f);
        else if (f.type === wire.CREDIT) request._credit(f.value);
        else this.#cancel(f.stream, f.code);
        break;
      }
      case wire.ATTACHED:
        if (this.attachments.has(f.stream)) {
          const a = this.attachments.get(f.stream);
          a.up = true;
          this.#backoffs.delete(a.endpoint);
        }
        break;
      case wire.REFUSED:
        wire.decodeFields(f.payload);
        this.#attachRefused(f.stream);
        break;
      case wire.WATCH:
        this.#watch(f);
        break;
      case wire.RESUME:
        this.#resume(f);
        break;
      case wire.SESSION:
        this.#highest = Math.max(this.#highest, f.stream);
        this.send(wire.RESPONSE, { flags: wire.END, code: 501, stream: f.stream });
        break;
      case wire.MESSAGE:
      case wire.CLOSE:
        this.#checkWas(f.stream);
        break;
      default:
        throw new wire.ProtocolError(`unexpected frame ${f.type}`);
    }
  }

  /** Frames for a stream that has ended may have crossed with its end. */
  #checkWas(stream) {
    if (stream % 2 === 0 || stream > this.#highest) throw new wire.ProtocolError('frame for a stream that never was');
  }

  #attachRefused(stream) {
    const a = this.attachments.get(stream);
    if (!a) return;
    this.attachments.delete(stream);
    this.#forgetWatches(a.endpoint);
    // Often the server just has not heard of the registration yet.
    if (!this.#backoffs.has(a.endpoint)) this.#backoffs.set(a.endpoint, new Backoff());
    setTimeout(() => {
      if (this.app.endpoints.get(a.endpoint.namespace) === a.endpoint) this.attach(a.endpoint);
    }, this.#backoffs.get(a.endpoint).next()).unref();
  }

  #watch(f) {
    const path = Object.fromEntries(wire.decodeFields(f.payload))[':path'];
    if (path === undefined || path.includes('\0')) throw new wire.ProtocolError('watch without a path');
    const a = this.attachments.get(f.stream);
    if (!a) return;
    const key = `${a.endpoint.namespace} ${path}`;
    if (f.value === 0) {
      if (!this.watches.delete(key)) return;
    } else if (this.watches.has(key) || this.watches.size < WATCHES_MAX) {
      this.watches.set(key, f.value);
    } else {
      return;
    }
    this.app._tellWatch(a.endpoint.namespace, path);
  }

  #resume(f) {
    const { ':path': path, ':id': id } = Object.fromEntries(wire.decodeFields(f.payload));
    if (path === undefined || id === undefined || f.value === 0 || `${path}${id}`.includes('\0')) {
      throw new wire.ProtocolError('nothing to resume from');
    }
    const a = this.attachments.get(f.stream);
    if (!a?.endpoint.resumes) return;
    const [fields, body] = a.endpoint._resumed(path, id);
    const encoded = wire.encodeFields([[':token', String(f.value)], ...fields]);
    this.send(wire.RESUMED, { code: fields.length ? 200 : 204, stream: f.stream, value: encoded.length }, encoded, body);
  }

  #request(f) {
    if (f.value > f.payload.length || f.stream % 2 === 0 || this.requests.has(f.stream)) throw new wire.ProtocolError('bad request frame');
    const fields = wire.decodeFields(f.payload.subarray(0, f.value));
    const special = Object.fromEntries(fields);
    if (special[':method'] === undefined || special[':path'] === undefined) throw new wire.ProtocolError('request without method or path');
    this.#highest = Math.max(this.#highest, f.stream);
    const endpoint = [...this.attachments.values()].find((a) => a.endpoint.namespace === special[':namespace'])?.endpoint;
    let code = 0;
    if (!endpoint || this.app.stopping || this.requests.size >= wire.REQUESTS_MAX) code = 503;
    else if (fields.some(([n, v]) => n.includes('\0') || v.includes('\0'))) code = 400;
    if (code) {
      this.send(wire.RESPONSE, { flags: wire.END, code, stream: f.stream });
      return;
    }
    const request = new Request(this, endpoint, f.stream, fields, f.payload.subarray(f.value), (f.flags & wire.END) !== 0);
    this.requests.set(f.stream, request);
    this.#handle(f.stream, request);
  }

  #cancel(stream, status) {
    const request = this.requests.get(stream);
    this.requests.delete(stream);
    request._cancel(status);
    this._drain();
    this.app._checkStopped();
  }

  /** Answers once, whatever the handler does. */
  async #handle(stream, request) {
    try {
      try {
        const answer = await request.endpoint.handler(request);
        if (!request.cancelled) await request._answer(toResponse(answer));
      } catch (e) {
        if (!(e instanceof BodyTooLarge) || request.begun || request.cancelled) throw e;
        await request._answer(new Response(`${e.message}\n`, { status: e.status }));
      }
    } catch (e) {
      if (request.cancelled) return;
      const gaveUp = e?.name === 'AbortError';
      if (!gaveUp) this.app.warn(`${request.method} ${request.endpoint.namespace} failed: ${e?.stack ?? e}`);
      if (request.begun || gaveUp) this.send(wire.CANCEL, { code: 500, stream });
      else this.send(wire.RESPONSE, { flags: wire.END, code: 500, stream });
    } finally {
      if (this.requests.get(stream) === request) {
        this.requests.delete(stream);
        this._drain();
        this.app._checkStopped();
      }
    }
  }
}

module.exports = { Backoff, RegistrarLink, ServerLink };
