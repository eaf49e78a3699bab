// Two runs problem by problem: what one gets right and the other does not, both answers side by side.
import {h, fill, badge, pValue, plural, empty} from './dom.js';
import {get} from './api.js';

const page = 10;

// `rows`: of the comparison table; `pinned`: the id all are compared with, or empty.
export function problems(rows, pinned) {
  const able = rows.filter((row) => row.last || row.first);
  if (able.length < 2) return h('p.note', {}, 'It takes two runs that were measured.');
  const name = (row) => `${row.id} s${row.seed} (${row.run})`;
  const baseline = (row) => able.find((other) => other !== row && other.seed === row.seed && other.id === (pinned || row.baseline));
  const start = [...able].reverse().find(baseline);
  let [second, first] = start ? [start, baseline(start)] : [able[1], able[0]];
  let step = '', which = 'gained', offset = 0, request = 0;
  const choose = (label, current, change) => h('select', {'aria-label': label, onchange: (event) => { change(able.find((row) => String(row.run) === event.target.value)); step = ''; offset = 0; draw(); }},
    able.map((row) => h('option', {value: row.run, selected: row === current}, name(row))));
  const tools = h('div.tools'), body = h('div');
  const answer = (title, one) => h('div.said', {}, h('p.note', {}, badge(one.outcome), ` ${title}`), h('pre', {}, one.completion));

  async function draw() {
    const mine = ++request;
    const runs = [choose('Run', second, (row) => { second = row; }), h('span', {}, 'against'), choose('Against', first, (row) => { first = row; })];
    let found;
    try {
      found = await get('/api/problems', {first: first.run, second: second.run, step, which, offset, limit: page});
    } catch (error) {
      if (mine !== request) return;
      fill(tools, runs);
      return fill(body, empty('These two cannot be paired.', error.message));
    }
    if (mine !== request) return;
    const steps = h('select', {'aria-label': 'Step', onchange: (event) => { step = event.target.value; offset = 0; draw(); }},
      found.steps.map((each) => h('option', {value: each, selected: each === found.step}, `step ${each}`)));
    const chip = (word, count) => h('button.chip', {type: 'button', 'aria-pressed': String(which === word), onclick: () => { which = word; offset = 0; draw(); }}, word, h('span.count', {}, count));
    fill(tools, runs, steps, h('div.chips', {role: 'group', 'aria-label': 'Which problems'}, chip('gained', found.gained), chip('lost', found.lost)));
    const total = found[which];
    fill(body, h('p.note', {}, `${plural(found.problems, 'problem')}: ${found.gained} gained, ${found.lost} lost, ${found.both} right in both, ${found.neither} in neither; exact McNemar p ${found.p < 0.001 ? pValue(found.p) : `= ${pValue(found.p)}`}.`),
      total === 0 ? h('p.note', {}, which === 'gained' ? `Nothing is right in ${found.second} only.` : `Nothing is right in ${found.first} only.`)
        : h('ol.pairs', {}, found.rows.map((row) => h('li', {},
            h('p.question', {}, h('span.index', {}, `#${row.index} `), row.question || '', row.expected ? h('span.note', {}, ` expected ${row.expected}`) : null),
            h('div.sides', {}, answer(found.first, row.first), answer(found.second, row.second))))),
      total > page ? h('p.pager', {}, h('button', {type: 'button', disabled: offset === 0, onclick: () => { offset = Math.max(0, offset - page); draw(); }}, '← Former'),
        h('span', {}, `${offset + 1}–${Math.min(offset + page, total)} of ${total}`),
        h('button', {type: 'button', disabled: offset + page >= total, onclick: () => { offset += page; draw(); }}, 'Next →')) : null);
  }
  draw();
  return h('div', {}, tools, body);
}
