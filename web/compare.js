// Any runs side by side: the table against their own baselines or a pinned one, and one metric's curves over each other.
import {h, fill, put, empty} from './dom.js';
import {get} from './api.js';
import {heading, live, start} from './app.js';
import {Chart, palette} from './charts.js';
import {comparison, rule} from './table.js';
import {problems} from './problems.js';

const mostCurves = 8;

async function show(main) {
  heading('Compare');
  const asked = new URLSearchParams(location.search);
  const view = {what: asked.getAll('what'), baseline: asked.get('baseline') || '', first: asked.get('first') || '', last: asked.get('last') || '', metric: asked.get('metric') || 'accuracy'};
  const {series} = await get('/api/series');
  const field = h('input', {type: 'search', name: 'what', list: 'known', placeholder: 'e13, or 17 18 19', 'aria-label': 'Series or runs, separated by spaces', size: 28});
  field.value = view.what.join(' ');
  const number = (name, label) => {
    const input = h('input', {type: 'text', inputmode: 'numeric', pattern: '[0-9]*', size: 4, 'aria-label': label, placeholder: label});
    input.value = view[name];
    return input;
  };
  const from = number('first', 'first step'), to = number('last', 'last step');
  const form = h('form.tools', {onsubmit: (event) => {
    event.preventDefault();
    view.what = field.value.split(/[\s,]+/).filter(Boolean);
    [view.first, view.last] = [from.value.trim(), to.value.trim()];
    draw();
  }}, field, h('datalist', {id: 'known'}, series.map((each) => h('option', {value: each.id}, each.title))), from, to, h('button.primary', {}, 'Compare'));
  const body = h('div');
  fill(main, h('h1', {}, 'Compare'), form, body);

  let picture = null;
  const remember = () => {
    const query = new URLSearchParams();
    for (const word of view.what) query.append('what', word);
    for (const key of ['baseline', 'first', 'last']) if (view[key]) query.set(key, view[key]);
    if (view.metric !== 'accuracy') query.set('metric', view.metric);
    history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
  };

  async function draw() {
    remember();
    picture?.remove();
    picture = null;
    if (!view.what.length)
      return fill(body, empty('Nothing to compare yet.', 'Name a series or some runs above, or mark runs with x in the list of runs.',
        series.length ? ['Series: ', series.slice(0, 12).map((each, i) => [i ? ', ' : '', h('a', {href: `/compare?what=${encodeURIComponent(each.id)}`}, each.id)])] : null));
    let table;
    try {
      table = await get('/api/compare', {what: view.what, baseline: view.baseline, first: view.first, last: view.last});
    } catch (error) {
      return fill(body, empty('These cannot be compared.', error.message));
    }
    // Colours belong to the runs whose curves are drawn, the first few of the table.
    const colors = palette().slice(0, mostCurves), drawn = table.rows.slice(0, mostCurves).map((row) => row.run);
    const curves = h('div');
    fill(body, comparison(table, {pinned: view.baseline, colors, pin: (id) => { view.baseline = id; draw(); }}), rule(table),
      h('h2', {}, 'Curves'), curves, h('h2', {}, 'Problems gained and lost'), problems(table.rows, view.baseline));
    await drawCurves(curves, table, drawn);
  }

  async function drawCurves(element, table, drawn) {
    const measured = await get('/api/metrics', {run: drawn});
    const keys = [...new Set(measured.flatMap((each) => Object.keys(each.values)))].sort();
    const choice = h('select', {'aria-label': 'Metric', onchange: () => { view.metric = choice.value; remember(); plot(); }},
      ['accuracy', ...keys].map((key) => h('option', {value: key, selected: key === view.metric}, key)));
    const place = h('div.charts.one');
    fill(element, h('div.tools', {}, choice, table.rows.length > mostCurves ? h('span.note', {}, `the first ${mostCurves} of ${table.rows.length} runs`) : null), place);
    function plot() {
      picture?.remove();
      const accuracy = view.metric === 'accuracy';
      picture = new Chart(accuracy ? 'test accuracy' : view.metric, accuracy ? {unit: '%', height: 300, format: (value) => value.toFixed?.(1) ?? value} : {height: 300});
      put(place, picture.element);
      picture.set(measured.map((each) => {
        const row = table.rows.find((other) => other.run === each.run);
        const label = `${row.id} s${row.seed}`;
        if (accuracy) return {label: label + (each.evaluations.some((e) => e.quant !== e.trained_quant) ? ' ‡' : ''), steps: each.evaluations.map((e) => e.step), values: each.evaluations.map((e) => e.problems > 0 ? 100 * e.correct / e.problems : null)};
        return {label, steps: each.steps, values: each.values[view.metric] || each.steps.map(() => null)};
      }));
    }
    plot();
  }

  await draw();
  live(() => ({path: '/api/events'}), {});
}

start('compare', show);
