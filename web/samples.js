// The answers of an evaluation, one test problem each, with what was right and wrong.
import {h, fill, badge, percent, plural, empty} from './dom.js';
import {get} from './api.js';

const page = 10;
const words = {correct: 'right', wrong: 'wrong', unparsable: 'no answer found', scorer_error: 'scorer failed'};

export function samples(run) {
  let rows = run.evaluations, step = rows.length ? rows[rows.length - 1].step : null, outcome = '', offset = 0, latest = true;
  const tools = h('div.tools'), body = h('div'), element = h('div', {}, tools, body);
  let request = 0;

  async function draw() {
    const mine = ++request;
    if (step === null) {
      fill(tools);
      return fill(body, empty('No evaluation yet.', 'The first is made before the first step.'));
    }
    let found;
    try {
      found = await get(`/api/runs/${run.number}/evaluations/${step}`, {outcome, offset, limit: page});
    } catch (error) {
      if (mine === request) fill(body, empty('These answers could not be read.', error.message));
      return;
    }
    if (mine !== request) return;
    const choice = h('select', {'aria-label': 'Evaluation', onchange: (event) => { step = Number(event.target.value); latest = step === rows[rows.length - 1].step; offset = 0; draw(); }},
      rows.map((row) => h('option', {value: row.step, selected: row.step === step}, `Step ${row.step}: ${percent(row.problems > 0 ? row.correct / row.problems : null)} %${row.quant !== row.trained_quant ? '‡' : ''}`)));
    const counts = found.counts || {};
    const chip = (word, label, count) => h('button.chip', {type: 'button', 'aria-pressed': String(outcome === word), onclick: () => { outcome = word; offset = 0; draw(); }}, label, h('span.count', {}, count));
    fill(tools, choice, found.samples ? h('div.chips', {role: 'group', 'aria-label': 'Outcome'}, chip('', 'All', found.problems),
      Object.entries(words).filter(([word]) => counts[word]).map(([word, label]) => chip(word, label, counts[word]))) : null,
      h('span.note', {}, found.quant ? `${found.quant !== found.trained_quant ? '‡ ' : ''}measured under ${found.quant}${found.quant !== found.trained_quant ? `, trained under ${found.trained_quant}` : ''}` : ''));
    if (!found.samples) return fill(body, empty('The single answers are not there.', found.missing));
    fill(body, found.questions ? h('p.note', {}, found.questions) : null,
      h('ol.samples', {}, found.samples.map((sample) => h('li', {},
        h('div.verdict', {}, badge(sample.outcome), h('span.index', {}, `#${sample.index}`)),
        h('div.said', {},
          sample.question ? h('p.question', {}, sample.question) : null,
          h('pre', {}, sample.completion ?? ''),
          h('p.note', {}, [sample.expected ? `expected ${String(sample.expected).split('####').pop().trim()}` : null, sample.answer !== undefined && sample.answer !== null && sample.answer !== '' ? `answered ${sample.answer}` : null,
            sample.tokens !== undefined ? plural(sample.tokens, 'token') : null, sample.truncated ? 'cut off' : null].filter(Boolean).join(' · ')))))),
      found.total > page ? h('p.pager', {}, h('button', {type: 'button', disabled: offset === 0, onclick: () => { offset = Math.max(0, offset - page); draw(); }}, '← Former'),
        h('span', {}, `${offset + 1}–${Math.min(offset + page, found.total)} of ${found.total}`),
        h('button', {type: 'button', disabled: offset + page >= found.total, onclick: () => { offset += page; draw(); }}, 'Next →')) : null);
  }
  draw();
  return {
    element,
    update(fresh) {
      if (JSON.stringify(fresh.map((row) => [row.step, row.correct])) === JSON.stringify(rows.map((row) => [row.step, row.correct]))) return;
      rows = fresh;
      if (latest && rows.length) step = rows[rows.length - 1].step;
      draw();
    },
  };
}
