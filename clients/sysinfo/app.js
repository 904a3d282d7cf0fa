// SPDX-License-Identifier: Apache-2.0
'use strict';
// Keeps the page fresh: one event a second carries the whole status as JSON. The layout is the page's; an element
// says with data-k what it shows and with data-f how, a table with data-rows and its columns' data-c and data-g.

const two = (n) => String(Math.floor(n)).padStart(2, '0');

const formats = { // as in page.c
  bytes(n) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let i = 0;
    for (; n >= 1024 && i < 4; i++) n /= 1024;
    return `${n.toFixed(i === 0 || n >= 100 ? 0 : 1)} ${units[i]}`;
  },
  percent: (n) => `${n.toFixed(0)} %`,
  duration: (s) => (s >= 86400 ? `${Math.floor(s / 86400)} d ` : '')
    + `${two((s / 3600) % 24)}:${two((s / 60) % 60)}:${two(s % 60)}`,
  seconds: (n) => `${n.toFixed(2)} s`,
  plain: (v) => String(v),
  load: (v) => v.map((x) => x.toFixed(2)).join(' '),
  clock: (t) => `live, ${new Date(t * 1000).toISOString().slice(11, 19)} UTC`,
  state: (s) => (s === 'unknown' ? '–' : s),
  failed(names) {
    if (!names) return 'What the units do is not known';
    if (!names.length) return 'All units are well';
    return `${names.length} ${names.length === 1 ? 'unit has' : 'units have'} failed: ${names.join(', ')}`;
  },
};

const find = (status, key) => key.split('.').reduce((v, k) => v?.[k], status);

function bar(element, n) {
  element.setAttribute('width', n.toFixed(1));
  element.setAttribute('class', n >= 90 ? 'high' : '');
}

function figures(status) {
  for (const element of document.querySelectorAll('[data-k]')) {
    const { k, f } = element.dataset;
    const v = find(status, k);
    if (f === 'bar') bar(element, v ?? 0);
    else if (v !== undefined || f === 'failed') element.textContent = formats[f](v);
  }
  document.getElementById('health').className = status.failed?.length ? 'bad' : '';
}

function row(data, columns) {
  const tr = document.createElement('tr');
  tr.className = data.state === 'failed' ? 'failed' : '';
  for (const { dataset, className } of columns) {
    const td = tr.insertCell();
    const v = data[dataset.c];
    td.className = className;
    td.textContent = v === undefined ? '–' : formats[dataset.g](v);
  }
  return tr;
}

function tables(status) {
  for (const table of document.querySelectorAll('[data-rows]')) {
    const columns = [...table.querySelectorAll('th')];
    table.tBodies[0].replaceChildren(...(status[table.dataset.rows] ?? []).map((data) => row(data, columns)));
  }
}

const past = []; // CPU use of the last minute

function spark(percent) {
  past.push(percent);
  if (past.length > 60) past.shift();
  document.querySelector('#spark polyline').setAttribute('points',
    past.map((p, i) => `${i + 60 - past.length},${(99 - p * 0.98).toFixed(1)}`).join(' '));
}

const live = document.getElementById('live');
const source = new EventSource('/system/status');
source.onmessage = (event) => {
  const status = JSON.parse(event.data);
  live.className = 'on';
  figures(status);
  tables(status);
  if (status.cpu) spark(status.cpu.percent);
};
source.onerror = () => {
  live.className = 'off';
  live.firstElementChild.textContent = 'connection lost, trying again';
};
