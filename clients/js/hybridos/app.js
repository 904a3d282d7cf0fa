// SPDX-License-Identifier: Apache-2.0
'use strict';
// The app and its endpoints.

const path = require('node:path');
const log = require('./log.js');
const wire = require('./wire.js');
const { Response } = require('./request.js');
const { Backoff, RegistrarLink, ServerLink } = require('./link.js');

const NOTIFY_SIZE_MAX = 60 * 1024;
const NOTIFY_QUEUE_MAX = 4 * 1024 * 1024;
const STOP_MILLISECONDS = 5000;
const NAMESPACE = /^(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._~-]+)+$/;

/** The registrar refused a namespace for good. */
class Refused extends Error {
  constructor(namespace, status, reason) {
    super(`${namespace}: ${status} ${reason}`);
    Object.assign(this, { namespace, status, reason });
  }
}

/** A registered namespace; what App.endpoint() gives. */
class Endpoint {
  #watch = null; #state = null; #resume = null;

  constructor(app, namespace, handler, { rules = [], title = '', takeover = false, attributes = '' }) {
    Object.assign(this, { app, namespace, handler, rules: [...rules], title, takeover, attributes });
    if (this.rules.length > wire.RULES_MAX || Buffer.byteLength(title) > wire.TITLE_MAX
      || Buffer.byteLength(attributes) > wire.ATTRIBUTES_MAX
      || this.rules.some((rule) => Buffer.byteLength(rule) > wire.RULE_MAX)) {
      throw new RangeError('too many rules, or too long a rule, title or attributes');
    }
    this.key = '';
    this.id = 0;
    this.registered = false;
    this.refused = false;
    this.backoff = new Backoff();
  }

  /** `callback(path, watchers)`: a path below the namespace, and how many watch it now; 0: nobody any more. A good moment to
   * notify the current value. */
  onWatch(callback) { this.#watch = callback; return this; }

  /** `callback(status, reason)`: 200 when registered, else a refusal. After 429 and 503 the app tries again by itself.
   * Without a callback other refusals reject App.run() with Refused. */
  onState(callback) { this.#state = callback; return this; }

  /** `callback(path, id)`: a watcher of a path comes back, who has had all up to the value with this id. Returns the value that
   * came next, `{ body, id, contentType, missed }` (then it is asked again; missed: others between are lost), undefined: none did. Not
   * async. Without it a watcher who comes back gets the latest value, and is told that there is a gap. */
  onResume(callback) { this.#resume = callback; return this; }

  get resumes() { return this.#resume !== null; }

  /** At how many servers the endpoint can be reached now. */
  get servers() { return [...this.app.servers.values()].filter((s) => s.attachment(this)).length; }

  watchers(at = '/') {
    return [...this.app.servers.values()].reduce((n, s) => n + (s.watches.get(`${this.namespace} ${at}`) ?? 0), 0);
  }

  /** Pushes a new value to every watcher: text, bytes, or an object as JSON; at most 60 KiB. False if it could not be queued
   * for every server, or there is none. */
  notify(body, { path: at = '/', contentType, id, maxAge = 0 } = {}) {
    const value = new Response(body, { contentType });
    if (!value.body || value.body.length > NOTIFY_SIZE_MAX) throw new RangeError('a value is at most 60 KiB, and whole');
    const fields = [[':path', at], ...wire.decodeFields(value.fields)];
    if (id !== undefined) {
      if (Buffer.byteLength(id) > wire.NOTIFY_ID_MAX) throw new RangeError('id too long');
      fields.push([':id', id]);
    }
    if (maxAge) fields.push([':max-age', String(maxAge)]);
    return this.#sendValue(at, fields, value.body, 0);
  }

  /** The value at `path` is no more. */
  notifyGone({ path: at = '/' } = {}) {
    return this.#sendValue(at, [[':path', at]], Buffer.alloc(0), wire.GONE);
  }

  #sendValue(at, fields, body, flags) {
    if (!at.startsWith('/') || at.length > 2048) throw new RangeError('a path begins with a slash');
    const encoded = wire.encodeFields(fields);
    if (encoded.length + body.length > wire.PAYLOAD_MAX) throw new RangeError('path, content type and value together are too long');
    let done = false;
    for (const server of this.app.servers.values()) {
      const stream = server.attachment(this);
      if (!stream) continue;
      if (server.queued > NOTIFY_QUEUE_MAX) return false;
      server.send(wire.NOTIFY, { flags, stream, value: encoded.length }, encoded, body);
      done = true;
    }
    return done;
  }

  /** Gives the namespace back; its open requests fail. */
  unregister() {
    if (this.app.endpoints.get(this.namespace) !== this) return;
    this.app.endpoints.delete(this.namespace);
    for (const server of this.app.servers.values()) server.forget(this);
    if (this.id) this.app.registrar?.send(wire.UNREGISTER, { stream: this.id });
  }

  _tellState(status, reason) {
    if (this.#state) this.app._call(this.#state, status, reason);
    else if (this.refused) this.app._fail(new Refused(this.namespace, status, reason));
  }

  /** [fields, body] of a RESUMED. */
  _resumed(at, id) {
    try {
      const next = this.#resume(at, id);
      if (!next) return [[], Buffer.alloc(0)];
      const value = new Response(next.body, { contentType: next.contentType });
      if (!value.body || value.body.length > NOTIFY_SIZE_MAX) throw new RangeError('a value is at most 60 KiB, and whole');
      if (!next.id || Buffer.byteLength(next.id) > wire.NOTIFY_ID_MAX) throw new RangeError('id too long, or empty');
      return [[...wire.decodeFields(value.fields), [':id', next.id], ...(next.missed ? [[':gap', '1']] : [])], value.body];
    } catch (e) {
      this.app.warn(`a callback failed: ${e?.stack ?? e}`);
      return [[], Buffer.alloc(0)];
    }
  }

  _tellWatch(at) {
    if (this.#watch) this.app._call(this.#watch, at, this.watchers(at));
  }
}

/** Registers endpoints and answers for them. `registrar` is the path of its socket; by default $HYBRIDOS_REGISTRAR or the
 * usual place. `warn` is told what goes wrong; by default the log. */
class App {
  #path; #finish = null; #timer = null;

  constructor(name = path.basename(process.argv[1] ?? 'app'), { registrar, warn } = {}) {
    this.name = name;
    this.warn = warn ?? ((text) => log.warning(text));
    this.#path = registrar ?? process.env.HYBRIDOS_REGISTRAR ?? wire.REGISTRAR_SOCKET;
    this.endpoints = new Map();
    this.servers = new Map();
    this.registrar = null;
    this.collected = 0;
    this.stopping = false;
    this.nextId = 0;
  }

  /** `handler(request)` answers requests for `namespace`; async or not. It returns text, bytes, an object, or a Response. Options:
   * rules ("METHODS SUBPATH PERMISSION"), title, takeover, attributes (those of a link, RFC 6690: 'rt="temperature";ct=50'). */
  endpoint(namespace, handler, options = {}) {
    if (!NAMESPACE.test(namespace) || namespace.length > 255) throw new TypeError(`not a namespace: ${JSON.stringify(namespace)}`);
    if (this.endpoints.has(namespace)) throw new TypeError(`${namespace} is there already`);
    const endpoint = new Endpoint(this, namespace, handler, options);
    this.endpoints.set(namespace, endpoint);
    this.registrar?.ask(endpoint);
    return endpoint;
  }

  /** Serves until stop(), SIGINT or SIGTERM. `signals: false` leaves the signals alone. */
  async run({ signals = true } = {}) {
    const stop = () => this.stop();
    this.stopping = false;
    if (signals) for (const s of ['SIGINT', 'SIGTERM']) process.on(s, stop);
    try {
      await new Promise((resolve, reject) => {
        this.#finish = { resolve, reject };
        this.registrar = new RegistrarLink(this, this.#path);
        this.registrar.start();
      });
    } finally {
      this.#finish = null;
      clearTimeout(this.#timer);
      if (signals) for (const s of ['SIGINT', 'SIGTERM']) process.off(s, stop);
      this.registrar.end();
      this.registrar = null;
      for (const name of [...this.servers.keys()]) this._removeServer(name);
    }
  }

  /** Ends gracefully: no new requests, open ones may finish for five seconds. */
  stop() {
    if (this.stopping || !this.#finish) return;
    this.stopping = true;
    for (const server of this.servers.values()) {
      // The answer to the PING says that no request is under way to us any more.
      server.send(wire.GOAWAY, { code: 503 }, Buffer.from('the app stops'));
      server.send(wire.PING, { value: 1 });
    }
    this.#timer = setTimeout(() => this.#finish?.resolve(), STOP_MILLISECONDS);
    this._checkStopped();
  }

  // For endpoints and links.

  _checkStopped() {
    if (this.stopping && [...this.servers.values()].every((s) => !s.connected || (s.drained && s.requests.size === 0))) {
      this.#finish?.resolve();
    }
  }

  _fail(error) { this.#finish?.reject(error); }

  _newId() { return ++this.nextId; }

  _addServer(name, at) {
    const link = new ServerLink(this, at);
    link.onEnded = () => { if (this.servers.get(name) === link) this.servers.delete(name); };
    this.servers.set(name, link);
    link.start();
  }

  _removeServer(name) {
    const link = this.servers.get(name);
    this.servers.delete(name);
    link?.end();
  }

  _tellWatch(namespace, at) { this.endpoints.get(namespace)?._tellWatch(at); }

  /** A callback may be async, and its errors are its own. */
  _call(callback, ...values) {
    const failed = (e) => this.warn(`a callback failed: ${e?.stack ?? e}`);
    try {
      Promise.resolve(callback(...values)).catch(failed);
    } catch (e) {
      failed(e);
    }
  }
}

module.exports = { App, Endpoint, Refused };
