// The queue and everything that has ended: a list of any length, of which the browser holds what is seen.
import {h, fill, put, badge, bar, mark as otherwise, percent, number, took, duration, thousands, plural, empty} from './dom.js';
import {get, act} from './api.js';
import {app, heading, live, now, problem, start} from './app.js';

const page = 60;                       // rows asked for at once
const columns = [
  ['number', 'No.', 'num'], ['run', 'Run', ''], ['series', 'Series', 'series'], ['state', 'State', 'state'],
  [null, 'Step', 'step'], ['score', 'Score', 'num'], ['accuracy', 'Accuracy', 'num'], ['took', 'Time', 'time'],
];
const groups = [
  ['', 'All'], ['running,starting', 'Running'], ['queued,blocked', 'Waiting'], ['succeeded', 'Succeeded'],
  ['failed,stalled,lost', 'Failed'], ['killed,skipped', 'Ended'],
];

// A row's height in pixels, as style.css lays it out on a wide page and on a narrow one.
const narrow = matchMedia('(max-width: 44rem)');
const height = () => narrow.matches ? 66 : 40;
// To ask for it makes the browser lay out what there is: nothing as yet.
const firstScreen = innerHeight;

// A row is a copy of this one: a hundred elements made one by one take a browser that has just started longer than copies.
const gap = h('span.cell.run', {role: 'gridcell'}, ' ');
const blank = h('div.row', {role: 'row'},
  h('span.cell.num', {role: 'gridcell'}, h('label.mark', {title: 'Mark for comparison'}, h('input', {type: 'checkbox', tabindex: '-1'}))),
  h('span.cell.run', {role: 'gridcell'}, h('a', {tabindex: '-1'}), h('span.seed')),
  ...['series', 'state', 'step', 'num.score', 'num.accuracy', 'time'].map((kind) => h('span.cell.' + kind, {role: 'gridcell'})));

function left(seconds) {
  return `${seconds < 90 ? duration(seconds) : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`} left`;
}

async function show(main) {
  heading('Runs');
  const asked = new URLSearchParams(location.search);
  const view = {text: asked.get('text') || '', series: asked.get('series') || '', states: asked.get('states') || '',
                sort: asked.get('sort') || 'active', order: asked.get('order') || 'desc'};
  let placed = false;                  // whether the first picture has been shown
  const rows = new Map(), marked = new Map(), pending = new Set();
  let total = 0, active = 0, generation = 0, counts = app.state.counts;

  const search = h('input', {type: 'search', placeholder: 'Run, series or number', value: view.text, 'aria-label': 'Search runs'});
  search.value = view.text;
  const chips = h('div.chips', {role: 'group', 'aria-label': 'States'});
  const head = h('div.row.head', {role: 'row'});
  const list = h('div.list', {role: 'rowgroup'});
  const grid = h('div.grid', {role: 'grid', tabindex: '0', 'aria-label': 'Runs', 'aria-rowcount': '0'}, head, list);
  const foot = h('p.foot', {'aria-live': 'polite'});
  const tray = h('div.tray', {role: 'region', 'aria-label': 'Marked runs', hidden: true});
  const nothing = h('div');
  fill(main, h('h1.hidden', {}, 'Runs'),
       h('div.tools', {}, chips, search), nothing, grid, foot, tray);

  const remember = () => {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(view))
      if (value && !(key === 'sort' && value === 'active') && !(key === 'order' && value === 'desc')) query.set(key, value);
    const search = query.size ? `?${query}` : '';
    if (search !== location.search) history.replaceState(null, '', search || location.pathname);
  };

  function drawChips() {
    const sum = (states) => states ? states.split(',').reduce((n, state) => n + (counts[state] || 0), 0)
                                   : Object.values(counts).reduce((a, b) => a + b, 0);
    const focused = document.activeElement?.dataset?.states;
    fill(chips, groups.map(([states, label]) =>
      h('button.chip', {type: 'button', 'aria-pressed': String(view.states === states), 'data-states': states,
                        onclick: () => { view.states = states; reload(); drawChips(); }},
        label, h('span.count', {}, thousands(sum(states))))));
    if (view.series) put(chips, h('button.chip', {type: 'button', 'aria-pressed': 'true', title: 'Show all series',
                                 onclick: () => { view.series = ''; reload(); drawChips(); }}, `${view.series} ×`));
    if (focused !== undefined) chips.querySelector(`[data-states="${focused}"]`)?.focus();
  }

  function drawHead() {
    fill(head, columns.map(([key, label, kind]) => {
      const current = key && (view.sort === key);
      const cell = h('span.cell.' + (kind || 'run'), {role: 'columnheader',
        'aria-sort': current ? (view.order === 'asc' ? 'ascending' : 'descending') : null});
      if (!key) return put(cell, label);
      return put(cell, h('button.sort', {type: 'button', tabindex: '-1', onclick: () => {
        if (!current) [view.sort, view.order] = [key, ['run', 'series', 'state'].includes(key) ? 'asc' : 'desc'];
        else if (view.order === (['run', 'series', 'state'].includes(key) ? 'asc' : 'desc')) view.order = view.order === 'asc' ? 'desc' : 'asc';
        else [view.sort, view.order] = ['active', 'desc'];
        drawHead();
        reload();
      }}, label, h('span.arrow', {'aria-hidden': 'true'}, current ? (view.order === 'asc' ? '↑' : '↓') : '')));
    }));
  }

  // The first rows came with the page, in the order that is shown when nothing else is asked for.
  function cameAlong() {
    const plain = !location.search, runs = app.runs;
    app.runs = null;
    return plain ? runs : null;
  }

  async function load(offset, anew = false) {
    if (pending.has(offset)) return;
    pending.add(offset);
    const mine = generation;
    try {
      const answer = cameAlong() || await get('/api/runs', {offset, limit: page, text: view.text, series: view.series, sort: view.sort,
                                             order: view.order, state: view.states ? view.states.split(',') : []});
      if (mine !== generation) return;
      total = answer.total;
      answer.runs.forEach((row, i) => rows.set(offset + i, row));
      // What is outside of the page that has just come may be old; it is asked for again when it is seen.
      if (anew) for (const index of rows.keys()) if (index < offset || index >= offset + page || index >= total) rows.delete(index);
      problem('list', '');
      draw();
    } catch (error) {
      if (mine === generation) problem('list', error.message);
    } finally {
      pending.delete(offset);
    }
  }

  async function reload(keep = false) {
    remember();
    ++generation;
    pending.clear();
    if (!keep) {
      active = 0;
      if (drawn.size) scrollTo(0, 0);
    }
    await load(Math.floor((keep ? range()[0] : 0) / page) * page, true);
  }

  // The rows that are seen, and two more at either end. To ask where the list lies makes the browser lay out the page too,
  // so for the first picture that is assumed: what stands above it is not less than 120 pixels high.
  function range() {
    const row = height();
    if (!placed && !drawn.size) return [0, Math.min(total, Math.ceil((firstScreen - 120) / row))];
    const top = -list.getBoundingClientRect().top;
    return [Math.max(0, Math.floor(top / row) - 2), Math.min(total, Math.ceil((top + innerHeight) / row) + 2)];
  }

  const drawn = new Map();             // index -> its element and what it was made from
  function draw() {
    const row = height();
    list.style.height = `${total * row}px`;
    grid.setAttribute('aria-rowcount', String(total + 1));
    grid.hidden = total === 0;
    foot.textContent = total ? `${plural(total, 'run')}${view.text || view.states || view.series ? ' of ' + thousands(Object.values(counts).reduce((a, b) => a + b, 0)) : ''}` : '';
    fill(nothing);
    if (!total && rows.size === 0 && !pending.size) {
      const any = Object.keys(counts).length > 0;
      put(nothing, any ? empty('No run matches.', 'Other words, or another state above, may find it.')
                       : empty('No runs yet.', ['Type ', h('code', {}, 'assay run e13'), ' to queue the series that comes with assay; it appears here as it goes.']));
    }
    active = Math.max(0, Math.min(active, total - 1));
    const [from, to] = range();
    const missing = new Set();
    for (const [index, {element}] of drawn)
      if (index < from || index >= to) {
        element.remove();
        drawn.delete(index);
      }
    // In the order of the list also in the document, which is what a screen reader reads.
    let after = null;
    for (let index = to - 1; index >= from; --index) {
      const data = rows.get(index);
      if (!data) missing.add(Math.floor(index / page) * page);
      let {element, stamp: before} = drawn.get(index) || {};
      const stamp = data ? JSON.stringify(data) + marked.has(data.number) + (data.state === 'running' ? Math.floor(now()) : '') : '';
      if (!element || before !== stamp) {
        const fresh = line(index, data);
        if (element) element.replaceWith(fresh);
        drawn.set(index, {element: element = fresh, stamp});
      }
      if (element.parentNode !== list || element.nextSibling !== after) list.insertBefore(element, after);
      after = element;
      element.style.transform = `translateY(${index * row}px)`;
      element.classList.toggle('active', index === active);
      element.setAttribute('aria-selected', String(Boolean(data && marked.has(data.number))));
    }
    if (total) grid.setAttribute('aria-activedescendant', `row-${active}`);
    for (const offset of missing) load(offset);
  }

  function line(index, data) {
    const element = blank.cloneNode(Boolean(data));
    element.id = `row-${index}`;
    element.ariaRowIndex = String(index + 2);
    if (!data) {
      element.classList.add('loading');
      return put(element, gap.cloneNode(true));
    }
    const share = data.state === 'succeeded' ? 1 : data.total_steps > 0 && data.step !== null ? data.step / data.total_steps : 0;
    const why = [data.held ? 'paused' : '', data.waits_for ? `waits for ${data.waits_for}` : data.detail].filter(Boolean).join('; ');
    const [number_, run, series, state, step, score, accuracy, time] = element.children;
    const set = (cell, value, ...words) => value === null ? (cell.textContent = '–', cell.classList.add('none')) : put(cell, ...words);
    const box = number_.firstChild.firstChild, link = run.firstChild;
    box.checked = marked.has(data.number);
    box.ariaLabel = `Mark run ${data.number}`;
    box.after(data.number);
    if (!index) run.setAttribute('elementtiming', 'row');
    link.href = `/run/${data.number}`;
    link.textContent = data.run;
    run.lastChild.textContent = ` s${data.seed}`;
    if (data.title) put(run, h('span.title', {title: data.title}, data.title));
    series.textContent = data.series;
    put(state, badge(data.state, why), why ? h('span.why', {title: why}, why) : null);
    set(step, data.step, bar(share), `${data.step}/${data.total_steps ?? '?'}`);
    set(score, data.score, number(data.score, 3));
    set(accuracy, data.accuracy, percent(data.accuracy), otherwise(data.accuracy_other_quant), h('span.unit', {}, ' %'));
    time.textContent = data.state === 'running' && data.time_left !== null ? left(data.time_left) : data.started ? took(data, now()) : '–';
    return element;
  }

  list.addEventListener('click', (event) => {
    const index = event.target.closest('.row')?.ariaRowIndex - 2, data = rows.get(index);
    if (!data) return;
    active = index;
    if (event.target.closest('label')) return;           // its box says what becomes of that
    if (event.target.closest('a')) draw();
    else if (event.ctrlKey || event.metaKey || event.shiftKey) mark(data);
    else location.href = `/run/${data.number}`;
  });
  list.addEventListener('change', (event) => mark(rows.get(event.target.closest('.row').ariaRowIndex - 2)));

  function mark(data) {
    if (marked.has(data.number)) marked.delete(data.number);
    else marked.set(data.number, data);
    tray.hidden = marked.size === 0;
    const link = '/compare?' + [...marked.keys()].map((each) => `what=${each}`).join('&');
    const living = [...marked.values()].filter((row) => ['queued', 'blocked', 'starting', 'running'].includes(row.state));
    fill(tray, h('span', {}, plural(marked.size, 'run') + ' marked'),
         h('a.button.primary', {href: link}, 'Compare'),
         app.actions && living.length ? h('button.danger', {type: 'button', onclick: () => end(living)}, `End ${plural(living.length, 'run')}`) : null,
         h('button', {type: 'button', onclick: () => { marked.clear(); tray.hidden = true; draw(); grid.focus(); }}, 'Unmark'));
    draw();
  }

  async function end(living) {
    if (!confirm(`End ${plural(living.length, 'run')}? What they have measured is kept.`)) return;
    try {
      await act('kill', {numbers: living.map((row) => row.number)});
      problem('action', '');
    } catch (error) {
      problem('action', error.message);
    }
  }

  function go(index) {
    active = Math.max(0, Math.min(total - 1, index));
    const row = height(), top = list.getBoundingClientRect().top + active * row;
    const under = head.getBoundingClientRect().bottom;
    if (top < under) scrollBy(0, top - under - row);
    else if (top + row > innerHeight - 70) scrollBy(0, top + row - innerHeight + 90);
    draw();
  }

  grid.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const screen = Math.max(1, Math.floor(innerHeight / height()) - 3);
    const moves = {ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: screen, PageUp: -screen, Home: -Infinity, End: Infinity};
    const data = rows.get(active);
    if (event.key in moves) go(active + moves[event.key]);
    else if (event.key === 'Enter' && data && event.target === grid) location.href = `/run/${data.number}`;
    else if ((event.key === 'x' || event.key === ' ') && data && event.target === grid) mark(data);
    else if (event.key === 'c' && marked.size) tray.querySelector('a').click();
    else return;
    event.preventDefault();
  });
  addEventListener('keydown', (event) => {
    if (event.target === document.body && ['j', 'k', 'ArrowDown', 'ArrowUp', 'x'].includes(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      grid.focus({preventScroll: true});
      if (event.key !== 'x') event.preventDefault();
      draw();
    }
  });

  let typing = null;
  search.addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => { view.text = search.value.trim(); reload(); }, 120);
  });
  search.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' || event.key === 'ArrowDown') {
      event.preventDefault();
      grid.focus({preventScroll: true});
    }
  });
  let frame = 0;
  const soon = () => { frame = frame || requestAnimationFrame(() => { frame = 0; draw(); }); };
  addEventListener('scroll', soon, {passive: true});
  addEventListener('resize', () => { drawn.forEach(({element}) => element.remove()); drawn.clear(); soon(); });
  setInterval(() => { if (!document.hidden && [...drawn.keys()].some((index) => rows.get(index)?.state === 'running')) draw(); }, 1000);

  // Some changes alter which rows there are or their order; those are read anew, but not more than twice a second.
  let stale = null;
  const anew = () => {
    stale = stale || setTimeout(async () => {
      stale = null;
      try {
        counts = (await get('/api/state')).counts;
        drawChips();
      } catch { /* the stream says so */ }
      reload(true);
    }, 500);
  };
  const listenAll = () => live(() => ({path: '/api/events'}), {
    runs: (changed) => {
      for (const fresh of changed) {
        let seen = false;
        for (const [index, row] of rows)
          if (row.number === fresh.number) {
            seen = true;
            if (row.state !== fresh.state || view.sort !== 'active' && view.sort !== 'number') anew();
            rows.set(index, fresh);
          }
        if (!seen) anew();
      }
      draw();
    },
    many: anew,
  }, anew);

  drawHead();
  drawChips();
  await reload();
  // Behind the first picture: the rows just outside of it, and the stream of what changes.
  requestAnimationFrame(() => setTimeout(() => {
    placed = true;
    draw();
    listenAll();
  }));
}

start('runs', show);
