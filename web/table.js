// The comparison table, on the compare page and on that of a series.
import {h, svg, badge, mark, percent, pValue} from './dom.js';

const share = (point) => point && point.problems > 0 ? point.correct / point.problems : null;
const accuracy = (point) => share(point) === null ? h('span.none', {}, '–')
  : h('span', {title: `${point.correct} of ${point.problems}, measured under ${point.quant || 'unknown'}, trained under ${point.trained_quant || 'unknown'}`},
      percent(share(point)), mark(point.quant !== point.trained_quant));

// The interval as a line on a scale from 0 to 100 %, the accuracy as a dot on it.
function whisker(interval, point) {
  if (!interval || share(point) === null) return h('span.none', {}, '–');
  const [low, high] = interval, at = share(point) * 100;
  const picture = svg('svg', {viewBox: '0 0 100 12', class: 'whisker', role: 'img', 'aria-label': `${low.toFixed(1)} to ${high.toFixed(1)} %`},
    svg('line', {x1: 0, x2: 100, y1: 6, y2: 6, class: 'scale'}),
    svg('line', {x1: low, x2: high, y1: 6, y2: 6, class: 'range'}),
    svg('line', {x1: at, x2: at, y1: 1, y2: 11, class: 'point'}));
  return h('span.interval', {title: 'Wilson 95 % interval'}, picture, h('span', {}, `${low.toFixed(1)}–${high.toFixed(1)}`));
}

function difference(row) {
  if (row.difference === null || row.difference === undefined) return h('span.none', {title: row.refused || null}, row.refused ? 'n/a' : '–');
  const sign = row.difference > 0 ? '+' : row.difference < 0 ? '−' : '';
  return h('span', {title: row.refused || null}, sign + Math.abs(row.difference).toFixed(1));
}

// `pinned`: run id that all are compared with, or empty; `pin(id)`: called when another is chosen.
export function comparison(document, {pinned = '', pin = null, colors = null} = {}) {
  const rows = [...document.rows];
  const published = rows.some((row) => row.published && (row.published.first !== null || row.published.last !== null));
  const seeds = new Set(rows.map((row) => row.seed)).size > 1;
  const steps = (which) => [...new Set(rows.map((row) => row[which]?.step).filter((step) => step !== undefined && step !== null))];
  const name = (which, otherwise) => steps(which).length === 1 ? `Step ${steps(which)[0]}` : otherwise;
  if (pinned) rows.sort((a, b) => (b.id === pinned) - (a.id === pinned));
  const head = ['Run', seeds ? 'Seed' : null, 'Status', 'Format', 'Hook', 'Blocks', 'STE', name('first', 'First'), name('last', 'Last'), '95 % interval',
                pinned ? `vs ${pinned}` : 'Difference', 'p', 'Score', 'Gradient', published ? 'Published' : null];
  const right = new Set([1, 7, 8, 10, 11, 12, 13, 14]);
  const cells = (row, at) => [
    h('th', {scope: 'row'},
      pin ? h('button.pin', {type: 'button', 'aria-pressed': String(row.id === pinned), title: row.id === pinned ? 'Compare each run with its own baseline again' : `Compare all with ${row.id}`, 'aria-label': `Pin ${row.id} as the baseline`, onclick: () => pin(row.id === pinned ? '' : row.id)}, pinIcon()) : null,
      colors && at < colors.length ? swatch(colors[at]) : null,
      h('span.what', {}, h('a', {href: `/run/${row.run}`}, row.id), row.description ? h('span.title', {}, row.description) : null)),
    seeds ? row.seed : null, badge(row.status, row.sentence), row.format, row.hook, row.blocking, row.ste, accuracy(row.first), accuracy(row.last), whisker(row.interval, row.last),
    row.id === pinned ? h('span.none', {}, 'baseline') : [difference(row), !pinned && row.baseline ? h('span.base', {}, ` vs ${row.baseline}`) : null],
    row.p === null || row.p === undefined ? h('span.none', {}, '–') : pValue(row.p),
    row.training_score === null ? h('span.none', {}, '–') : percent(row.training_score),
    row.adapter_tensors === null ? h('span.none', {}, '–') : `${row.adapters_with_gradient ?? '–'}/${row.adapter_tensors}`,
    published ? (row.published.first === null && row.published.last === null ? h('span.none', {}, '–') : `${row.published.first ?? '–'} → ${row.published.last ?? '–'}`) : null];
  return h('div.scroll', {tabindex: '0', role: 'region', 'aria-label': 'Comparison table'}, h('table.comparison', {},
    h('thead', {}, h('tr', {}, head.map((label, i) => label === null ? null : h('th', {scope: 'col', class: right.has(i) ? 'num' : null}, label)))),
    h('tbody', {}, rows.map((row) => h('tr', {class: row.id === pinned ? 'pinned' : null},
      cells(row, document.rows.indexOf(row)).map((cell, i) => cell === null ? null
        : i === 0 ? cell : h('td', {class: right.has(i) ? 'num' : null}, cell)))))));
}

function pinIcon() {
  return svg('svg', {viewBox: '0 0 16 16', 'aria-hidden': 'true'}, svg('path', {d: 'M6 2h4l-.5 4.5L12 9H4l2.5-2.5L6 2zM8 9v5'}));
}

export function swatch(value) {
  const mark = h('span.swatch', {'aria-hidden': 'true'});
  mark.style.backgroundColor = value;
  return mark;
}

export function rule(document) {
  return h('p.note', {}, `Accuracies in %. Status: ${document.rule}. Difference in percentage points to the run of the same seed; p by the exact McNemar test on the same problems.${document.rows.some((row) => [row.first, row.last].some((point) => point && point.quant !== point.trained_quant)) ? ' ‡: measured under another quantization than trained under, or under one that is not known.' : ''}`);
}
