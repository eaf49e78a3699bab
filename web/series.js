// The series there are, and one of them: goal, table, report.
import {h, fill, when, plural, empty} from './dom.js';
import {get, act} from './api.js';
import {app, heading, live, problem} from './app.js';
import {comparison, rule} from './table.js';

export async function show(main, id) {
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
  const table = h('div');
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
      h('a.button', {href: `/compare?what=${encodeURIComponent(id)}`}, 'Compare'), queue)),
    series.goal ? h('p.subtitle', {}, series.goal) : null,
    table);
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
  live(() => ({path: '/api/events'}), {
    runs: (changed) => {
      if (changed.some((row) => row.series === id)) soon = soon || setTimeout(() => { soon = null; draw(); }, 1500);
    },
    many: draw,
  }, draw);
}
