// SPDX-License-Identifier: Apache-2.0
'use strict';
// Answer requests of every protocol that a HybridOS device speaks:
//
//   const { App } = require('hybridos');
//   const app = new App('hello');
//   app.endpoint('/hello', async (request) => 'hello\n');
//   await app.run();

const { App, Endpoint, Refused } = require('./app.js');
const log = require('./log.js');
const { BodyTooLarge, Request, Response } = require('./request.js');

module.exports = { App, BodyTooLarge, Endpoint, Refused, Request, Response, log };
