// SPDX-License-Identifier: Apache-2.0
'use strict';
// Keeps the page fresh: one event a second carries the whole status as JSON.

const BYTES = new Set(['total', 'available', 'cached', 'swap-total', 'swap-free', 'size', 'used', 'free',
  'received', 'sent', 'memory']);

function bytes(n) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (; n >= 1024 && i < 4; i++) n /= 1024;
  return `${n.toFixed(i ? 1 : 0)} ${units[i]}`;
}

function duration(s) {
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  return `${Math.floor(s / 86400)} d ${two((s / 3600) % 24)}:${two((s / 60) % 60)}:${two(s % 60)}`;
}

function show(key, v) {
  if (key === 'uptime') return duration(v);
  if (key === 'percent') return `${v.toFixed(1)} %`;
  if (key === 'cpu-seconds') return v.toFixed(2);
  if (BYTES.has(key)) return bytes(v);
  if (Array.isArray(v)) return v.map((x) => x.toFixed(2)).join(' ');
  return String(v);
}

function element(name, ...content) {
  const e = document.createElement(name);
  e.append(...content);
  return e;
}

function pairs(id, object) {
  const rows = Object.entries(object)
    .filter(([k, v]) => k !== 'time' && (Array.isArray(v) ? typeof v[0] === 'number' : typeof v !== 'object'))
    .map(([k, v]) => element('div', element('dt', k), element('dd', show(k, v))));
  document.getElementById(id).replaceChildren(...rows);
}

function table(id, rows) {
  document.querySelector(`#${id} tbody`).replaceChildren(...rows.map((row) =>
    element('tr', ...Object.entries(row).map(([k, v]) => element('td', show(k, v))))));
}

const live = document.getElementById('live');
const source = new EventSource('/system/status');
source.onmessage = (event) => {
  const status = JSON.parse(event.data);
  pairs('system', status);
  for (const id of ['cpu', 'memory']) if (status[id]) pairs(id, status[id]);
  for (const id of ['disks', 'network', 'units']) if (status[id]) table(id, status[id]);
  live.textContent = `live, ${new Date(status.time * 1000).toLocaleTimeString()}`;
};
source.onerror = () => { live.textContent = 'connection lost, trying again'; };
