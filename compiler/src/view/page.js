'use strict';
// The page reads without this. It shows what an address names, finds, filters, and moves the context of the caches.
(() => {
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const rest = at('rest').content;
  const index = JSON.parse(at('index').textContent);
  const panel = at('panel'), shown = at('shown'), search = at('search'), hits = at('hits');
  const strip = document.querySelector('.strip'), track = strip.parentElement;
  root.classList.add('js');

  const each = (selector, run) => document.querySelectorAll(selector).forEach(run);
  // What the panel shows is not scrolled to: its ids are the script's.
  const kept = new Map();
  each('.card, .values [id], #layer-table [id]', (element) => {
    kept.set(element.id, element);
    element.removeAttribute('id');
  });
  const named = (id) => kept.get(id) || at(id) || rest.getElementById(id);

  // Layers and their arcs.
  const arcs = [...strip.querySelectorAll('path')];
  const boxes = [...strip.querySelectorAll('a')];
  const pickLayer = (layer) => {
    strip.classList.toggle('picked', layer !== null);
    const block = layer === null ? null : blockOf(layer);
    arcs.forEach((arc) => arc.classList.toggle('on', arc.dataset.from === block));
    boxes.forEach((box) => {
      const on = box.dataset.layer === layer;
      box.classList.toggle('on', on);
      if (on) track.scrollLeft = Number(box.firstChild.getAttribute('x')) - track.clientWidth / 2;
      box.classList.toggle('near', layer !== null && box.dataset.layer !== layer && blockOf(box.dataset.layer) === block);
    });
  };
  // The layer whose selection or cache a layer reads, as the table of layers says; its own where there is none.
  const blockOf = (layer) => {
    const row = kept.get('L' + layer);
    const from = row && (row.children[2].textContent || row.children[3].textContent);
    return from ? from.slice(1) : layer;
  };

  const clear = () => {
    each('.marked, .here', (element) => element.classList.remove('marked', 'here'));
    panel.hidden = true;
    root.classList.remove('showing');
    pickLayer(null);
  };
  const showInPanel = (element) => {
    const copy = element.cloneNode(true);
    copy.removeAttribute('id');
    copy.querySelectorAll('[id]').forEach((inner) => inner.removeAttribute('id'));
    copy.querySelectorAll('[tabindex]').forEach((inner) => inner.removeAttribute('tabindex'));
    if (copy.tagName === 'DETAILS') copy.open = true;
    shown.replaceChildren(copy);
    panel.hidden = false;
    panel.scrollTop = 0;
    root.classList.add('showing');
  };
  const mark = (card) => {
    const made = new Set((card.dataset.made || '').split(' '));
    each('[data-v]', (line) => line.classList.toggle('marked', made.has(line.dataset.v)));
    const runs = card.querySelector('[data-kernel]');
    const kernel = runs && at('k.' + runs.dataset.kernel);
    if (kernel) kernel.classList.add('here');
  };
  // A line of the timeline leads to the op that it became.
  const cards = [...kept].filter(([, element]) => element.classList.contains('card'));
  document.addEventListener('click', (event) => {
    const line = event.target.closest('[data-v]');
    const found = line && cards.find(([, card]) => card.dataset.made.split(' ').includes(line.dataset.v));
    if (found) location.hash = '#' + found[0];
  });
  const open = (element) => {
    for (let outer = element; outer; outer = outer.parentElement) if (outer.tagName === 'DETAILS') outer.open = true;
  };

  const follow = () => {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { return; }
    if (!id) return clear();
    const layer = /^L(\d+)$/.exec(id);
    const element = named(layer ? 'layer.' + id : id);
    if (!element) return;
    if (layer) {
      clear();
      showInPanel(element);
      pickLayer(layer[1]);
      return;
    }
    const card = element.closest('.card');
    if (card) {
      clear();
      mark(card);
      showInPanel(card);
      if (card.dataset.layer) pickLayer(card.dataset.layer);
      return;
    }
    // What the panel shows stays, and its marks: the way leads from an op to its passes and its kernel.
    each('.here', (other) => other.classList.remove('here'));
    open(element);
    element.classList.add('here');
    element.scrollIntoView({ block: 'start' });
  };
  addEventListener('hashchange', follow);
  // A second press on the same link shows it again.
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.getAttribute('href') === location.hash) follow();
  });
  const close = () => {
    clear();
    history.replaceState(null, '', location.pathname + location.search);
  };
  at('close').addEventListener('click', close);

  // Finding.
  const MOST = 30;
  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    for (const [text, id] of words.length ? index.entries : []) {
      const lower = text.toLowerCase();
      if (words.every((word) => lower.includes(word))) found.push([lower.startsWith(words[0]) ? 0 : 1, text.length, text, id]);
    }
    found.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    hits.replaceChildren(...found.slice(0, MOST).map(([, , text, id]) => {
      const item = document.createElement('li'), link = document.createElement('a');
      link.href = '#' + id;
      link.textContent = text;
      item.append(link);
      return item;
    }));
    if (words.length && !found.length) {
      const item = document.createElement('li');
      item.textContent = 'nothing has these words';
      hits.append(item);
    } else if (found.length > MOST) {
      const item = document.createElement('li');
      item.textContent = `and ${found.length - MOST} more`;
      hits.append(item);
    }
    hits.hidden = !words.length;
  };
  search.addEventListener('input', find);
  hits.addEventListener('click', () => { hits.hidden = true; });
  const links = () => [...hits.querySelectorAll('a')];

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches('input, textarea');
    if (event.key === '/' && !typing) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === 'Escape') {
      hits.hidden = true;
      search.value = '';
      if (typing) event.target.blur();
      close();
    } else if (event.target === search && event.key === 'Enter') {
      links()[0]?.click();
    } else if ((event.target === search || hits.contains(event.target)) && /^Arrow(Down|Up)$/.test(event.key)) {
      event.preventDefault();
      const all = links(), now = all.indexOf(document.activeElement);
      const next = now + (event.key === 'ArrowDown' ? 1 : -1);
      (next < 0 ? search : all[Math.min(next, all.length - 1)])?.focus();
    } else if (!typing && /^Arrow(Left|Right)$/.test(event.key) && !event.target.closest('pre')) {
      const now = boxes.findIndex((box) => box.classList.contains('on'));
      const focused = boxes.indexOf(document.activeElement);
      if (now < 0 && focused < 0) return;
      const to = boxes[(focused < 0 ? now : focused) + (event.key === 'ArrowRight' ? 1 : -1)];
      if (!to) return;
      event.preventDefault();
      if (focused >= 0) to.focus();
      location.hash = to.getAttribute('href');
    }
  });

  // Bytes at a context.
  const context = at('context');
  const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const bytes = (n) => {
    let unit = 0;
    while (n >= 1024 && unit + 1 < UNITS.length) { n /= 1024; unit += 1; }
    return unit ? `${n.toFixed(2)} ${UNITS[unit]}` : `${n} B`;
  };
  const move = () => {
    const tokens = Math.round(2 ** Number(context.value));
    const pages = Math.ceil(tokens / index.page);
    at('context-is').textContent = `${tokens.toLocaleString('en')} tokens`;
    each('.moving', (cell) => { cell.textContent = bytes(Number(cell.dataset.page) * pages + Number(cell.dataset.fixed)); });
  };
  context.addEventListener('input', move);

  // Lines of steps.
  const lines = at('step-lines'), filter = at('filter');
  const all = lines.textContent.split('\n').slice(0, -1);
  filter.addEventListener('input', () => {
    const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const kept = all.filter((line) => words.every((word) => line.toLowerCase().includes(word)));
    lines.textContent = kept.join('\n') + '\n';
    at('filtered').textContent = words.length ? ` ${kept.length} of ${all.length}` : '';
    at('all-steps').open = true;
  });

  follow();
})();
