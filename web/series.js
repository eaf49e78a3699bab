// The series there are, and one of them: goal, report, and the table as it stands right now.
import {h, fill, when, plural, empty} from './dom.js';
import {get, act} from './api.js';
import {app, heading, live, problem, start} from './app.js';
import {comparison, rule} from './table.js';

async function show(main, id) {
  return id ? one(main, id) : all(main);
}

async function all(main) {
  heading('Series');
  const draw = async () => {
    const {series} = await get('/api/series');
    fill(main, h('h1', {}, 'Series'), series.length ? h('div.scroll', {}, h('table.comparison', {},
      h('thead', {}, h('tr', {}, ['Series', 'Runs', 'Going', 'Succeeded', 'Last queued'].map((label, i) => h('th', {scope: 'col', class: i ? 'num' : null}, label)))),
      h('tbody', {}, series.map((row) => h('tr', {},
        h('th', {scope: 'row'}, h('span.what', {}, h('a', {href: `/series/${encodeURIComponent(row.id)}`}, row.id), row.title ? h('span.title', {}, row.title) : null)),
        h('td.num', {}, row.runs), h('td.num', {}, row.active || h('span.none', {}, '–')), h('td.num', {}, row.succeeded), h('td.num', {}, when(row.last)))))))
      : empty('No series yet.', ['Type ', h('code', {}, 'assay run e13'), ' to queue the one that comes with assay.']));
  };
  await draw();
  live(() => ({path: '/api/events'}), {}, draw);
}

async function one(main, id) {
  heading(id);
  const series = await get(`/api/series/${encodeURIComponent(id)}`);
  heading(series.title || id);
  const page = `/series/${encodeURIComponent(id)}`, table = h('div');
  // The report is a document of its own, in a frame without scripts, as tall as it is.
  const frame = h('iframe.report', {src: `${page}/report`, title: `Report of ${id}`, sandbox: 'allow-same-origin allow-top-navigation-by-user-activation'});
  const tall = () => {
    const inside = frame.contentDocument?.documentElement;
    if (inside) frame.style.height = `${inside.offsetHeight + 4}px`;
  };
  frame.addEventListener('load', tall);
  new ResizeObserver(tall).observe(main);
  const queue = app.actions ? h('button', {type: 'button', onclick: async (event) => {
    if (!confirm(`Queue all runs of ${id}, as its series file says now?`)) return;
    event.target.disabled = true;
    try {
      await act('queue', {what: [id]});
      location.href = '/';
    } catch (error) {
      problem('action', error.message);
      event.target.disabled = false;
    }
  }}, 'Queue it') : null;
  fill(main, h('p.path', {}, h('a', {href: '/series'}, 'Series'), ' / ', id),
    h('div.title-line', {}, h('h1', {}, series.title || id), h('div.actions', {}, h('a.button', {href: `/?series=${encodeURIComponent(id)}`}, plural(series.runs, 'run')),
      h('a.button', {href: `/compare?what=${encodeURIComponent(id)}`}, 'Compare'), h('a.button', {href: `${page}/report`}, 'Report alone'), queue)),
    series.goal ? h('p.subtitle', {}, series.goal) : null,
    table, h('section', {id: 'report', 'aria-labelledby': 'report-title'}, h('h2', {id: 'report-title'}, 'Report'), frame));
  const draw = async () => {
    try {
      const document = await get('/api/compare', {what: id});
      fill(table, comparison(document), rule(document));
    } catch (error) {
      fill(table, empty('There is no table yet.', error.message));
    }
  };
  await draw();
  let soon = null;
  const states = new Map();            // run -> its state when it was last told
  live(() => ({path: '/api/events'}), {
    runs: (changed) => {
      const own = changed.filter((row) => row.series === id);
      // The report is made anew when a run has ended, not with each of its steps.
      if (own.some((row) => row.ended && states.get(row.number) !== row.state)) setTimeout(() => { frame.src = `${page}/report`; }, 1000);
      own.forEach((row) => states.set(row.number, row.state));
      if (own.length) soon = soon || setTimeout(() => { soon = null; draw(); }, 1500);
    },
    many: draw,
  }, draw);
}

start('series', show);
