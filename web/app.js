// The frame of every page: where one is, how the daemon is, what is wrong, which keys do what.
import {h, fill, empty} from './dom.js';
import {get, takeToken, listen} from './api.js';

export const app = {actions: false, waiting: 0, skew: 0};

export function now() {
  return Date.now() / 1000 + app.skew;
}

const banner = document.getElementById('banner');
const problems = new Map();

// One sentence across the page until it is taken back with an empty one.
export function problem(kind, sentence) {
  if (sentence) problems.set(kind, sentence);
  else problems.delete(kind);
  banner.hidden = problems.size === 0;
  banner.textContent = problems.get('server') || [...problems.values()][0] || '';
}

export function showDaemon(daemon) {
  const element = document.getElementById('daemon');
  if (!daemon.running) {
    fill(element, h('span.dot.off'), h('span', {}, 'no daemon'));
    problem('daemon', 'The daemon does not run: what has been started goes on, nothing new starts, and figures stand still. Any command takes it up again, for example `assay status`.');
    return;
  }
  problem('daemon', '');
  const waiting = Object.keys(daemon.waits || {}).length;
  fill(element, h(daemon.used ? 'span.dot.on' : 'span.dot'),
       h('span', {}, `${daemon.used} of ${daemon.slots}`, h('span.wide', {}, ' slots in use')),
       waiting ? h('span.wide', {}, ` · ${waiting} waiting`) : null);
}

// The page's one stream. `handlers` get what it says beside the daemon's state.
export function live(path, handlers, resumed = () => {}) {
  let timer = null;
  return listen(path, {daemon: showDaemon, ...handlers}, {
    lost: () => {
      timer = timer || setTimeout(() => problem('server', 'The server of this page does not answer: what is shown stands still. If it has ended, type `assay serve` again.'), 1500);
    },
    found: () => {
      clearTimeout(timer);
      timer = null;
      problem('server', '');
    },
    resumed,
  });
}

export function heading(title) {
  document.title = title ? `${title} · assay` : 'assay';
}

export function failed(main, error) {
  fill(main, empty(error.status === 404 ? 'There is nothing here.' : 'This could not be shown.', error.message,
                   h('a', {href: '/'}, 'All runs')));
}

const shortcuts = [
  ['g r', 'runs'], ['g s', 'series'], ['g c', 'compare'], ['/', 'search'], ['j k or ↓ ↑', 'next, former run'],
  ['Enter', 'open the run'], ['x', 'mark it for comparison'], ['c', 'compare what is marked'], ['Esc', 'leave a field, close'],
  ['?', 'this list'],
];

function help() {
  const dialog = h('dialog', {'aria-label': 'Keyboard shortcuts', onclose: () => dialog.remove()},
    h('h2', {}, 'Keyboard'),
    h('dl.keys', {}, shortcuts.map(([keys, what]) => [h('dt', {}, keys.split(' ').map((key) => key === 'or' ? ' or ' : [h('kbd', {}, key), ' '])), h('dd', {}, what)])),
    h('form', {method: 'dialog'}, h('button', {autofocus: true}, 'Close')));
  document.body.append(dialog);
  dialog.showModal();
}

function keys() {
  let before = '';
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const field = event.target.closest('input, select, textarea');
    if (field) {
      if (event.key === 'Escape') field.blur();
      return;
    }
    const places = {r: '/', s: '/series', c: '/compare'};
    if (before === 'g' && places[event.key]) location.href = places[event.key];
    else if (event.key === '?') help();
    else if (event.key === '/') {
      const search = document.querySelector('input[type=search]');
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    }
    before = event.key;
  });
  document.getElementById('help').addEventListener('click', help);
}

// What every page's script ends with: `show` fills the page. Where the server's state came with the page, nothing is waited
// for before, so that what `show` makes at once is in the first picture of the browser.
export async function start(page, show) {
  takeToken();
  keys();
  const main = document.getElementById('main');
  document.querySelector(`nav [data-page=${page}]`)?.setAttribute('aria-current', 'page');
  // What the server knew when it sent the page; null where it could not say.
  const given = JSON.parse(document.getElementById('given').textContent);
  try {
    const state = given ? given.state : await get('/api/state');
    app.actions = state.actions;
    app.skew = state.now - Date.now() / 1000;
    app.state = state;
    app.runs = given?.runs;
    showDaemon(state.daemon);
    await show(main, decodeURIComponent(location.pathname.split('/')[2] || ''));
  } catch (error) {
    failed(main, error);
  } finally {
    document.documentElement.dataset.ready = 'true';
  }
}
