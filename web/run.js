// One run: where it stands, what was changed, its curves, answers, findings, log and configuration.
import {h, fill, put, badge, bar, mark, percent, number, duration, took, when, plural, empty} from './dom.js';
import {get, act} from './api.js';
import {app, heading, live, now, problem, start} from './app.js';
import {Chart} from './charts.js';
import {samples} from './samples.js';

const first = ['critic/score/mean', 'actor/pg_loss', 'actor/grad_norm', 'actor/entropy', 'actor/entropy_loss', 'response_length/mean',
               'actor/ppo_kl', 'actor/kl_loss', 'training/rollout_probs_diff_mean'];
const most = 6;                        // pictures shown at first
const living = (state) => ['queued', 'blocked', 'starting', 'running'].includes(state);
const accuracyTitle = 'test accuracy';

async function show(main, number_) {
  heading(`Run ${number_}`);
  const base = `/api/runs/${number_}`;
  const [run, log, measured] = await Promise.all([get(base), get(`${base}/log`, {name: 'stdout'}), get(`${base}/metrics`)]);
  const against = run.baseline_number ? await get(`/api/runs/${run.baseline_number}/metrics`).catch(() => null) : null;
  heading(`${run.run} s${run.seed}`);

  const top = h('div.standing', {'aria-live': 'off'});
  const sections = [
    ['curves', 'Curves', curves(measured, against, run)],
    ['answers', 'Answers', samples(run)],
    ['notes', 'Notes', notes(run)],
    ['findings', 'Findings', findings(run)],
    ['log', 'Log', logs(base, log)],
    ['configuration', 'Configuration', configuration(run)],
    ['record', 'Record', record(run)],
  ];
  fill(main,
    h('p.path', {}, h('a', {href: `/series/${encodeURIComponent(run.series)}`}, run.series), ' / ', `run ${run.number}`),
    h('div.title-line', {}, h('h1', {}, run.run, h('span.seed', {}, ` s${run.seed}`)), h('div.actions', {}, actions(run))),
    run.title ? h('p.subtitle', {}, run.title) : null,
    top, change(run),
    h('nav.within', {'aria-label': 'Sections'}, sections.map(([id, label]) => h('a', {href: `#${id}`}, label))),
    sections.map(([id, label, section]) => h('section', {id, 'aria-labelledby': `${id}-title`}, h('h2', {id: `${id}-title`}, label), section.element)));

  let row = run;
  const stand = () => {
    standing(top, row);
    fill(main.querySelector('.actions'), actions(row));
  };
  stand();
  setInterval(() => { if (row.state === 'running' && !document.hidden) standing(top, row); }, 1000);
  if (location.hash.length > 1) document.getElementById(location.hash.slice(1))?.scrollIntoView();

  const [picture, answers, , , text] = sections.map(([, , section]) => section);
  live(() => ({path: `${base}/events`, query: {from: Math.max(0, picture.lastStep()), stdout: text.position('stdout'), stderr: text.position('stderr')}}), {
    run: (fresh) => {
      const ended = living(row.state) && !living(fresh.state);
      row = {...row, ...fresh};
      stand();
      if (ended) setTimeout(() => location.reload(), 800);     // its findings, events and record have come
    },
    points: (points) => picture.add(points),
    evaluations: (rows) => {
      picture.evaluations(rows);
      answers.update(rows);
    },
    log: (piece) => text.add(piece),
  });
}

function actions(run) {
  if (!app.actions) return [];
  const doing = (label, kind, what, body, sure, after) => h(kind, {type: 'button', onclick: async (event) => {
    if (sure && !confirm(sure)) return;
    event.target.disabled = true;
    try {
      const answer = await act(what, body);
      problem('action', '');
      if (after) after(answer);
    } catch (error) {
      problem('action', error.message);
      event.target.disabled = false;
    }
  }}, label);
  return [
    living(run.state) ? doing('End', 'button.danger', 'kill', {numbers: [run.number]}, `End run ${run.number}? What it has measured is kept.`) : null,
    living(run.state) ? null : doing('Run again', 'button', 'retry', {number: run.number}, null, (answer) => { location.href = `/run/${answer.numbers[0]}`; }),
  ];
}

function standing(element, run) {
  const share = run.total_steps > 0 && run.step !== null ? run.step / run.total_steps : 0;
  const cell = (label, ...value) => h('div', {}, h('dt', {}, label), h('dd', {}, value));
  const why = [run.held ? 'paused' : '', run.waits_for ? `waits for ${run.waits_for}` : run.detail].filter(Boolean).join('; ');
  fill(element,
    h('dl.facts', {},
      cell('State', badge(run.state)),
      cell('Step', run.step === null ? '–' : `${run.step} of ${run.total_steps ?? '?'}`),
      cell('Accuracy', percent(run.accuracy), mark(run.accuracy !== null && run.accuracy_other_quant), run.accuracy === null ? null : h('span.unit', {}, ' %')),
      cell('Score', number(run.score, 3)),
      cell(run.ended ? 'Took' : 'For', run.started ? took(run, now()) : '–'),
      cell(run.ended ? 'Ended' : 'Left', run.ended ? when(run.ended) : run.state === 'running' && run.time_left !== null ? duration(run.time_left) : '–')),
    living(run.state) && run.state !== 'queued' ? bar(share) : null,
    why ? h('p.why.full', {class: ['failed', 'lost', 'stalled'].includes(run.state) ? 'why full bad' : 'why full'}, why) : null);
}

function change(run) {
  const changed = Object.entries(run.changed || {});
  if (!run.hypothesis && !changed.length && !run.change) return null;
  const baseline = run.baseline ? (run.baseline_number ? h('a', {href: `/run/${run.baseline_number}`}, run.baseline) : run.baseline) : null;
  return h('div.change', {},
    run.hypothesis ? h('p.hypothesis', {}, run.hypothesis) : null,
    typeof run.change === 'string' && run.change && !changed.every(([key, text]) => run.change.includes(`${key}: ${text}`)) ? h('p', {}, run.change) : null,
    changed.length ? h('table.plain', {},
      h('caption', {}, 'What changed', baseline ? [' against ', baseline] : null),
      h('tbody', {}, changed.map(([key, text]) => {
        const [from, ...to] = String(text).split(' -> ');
        return h('tr', {}, h('th', {scope: 'row'}, h('code', {}, key)),
                 h('td', {}, to.length ? [h('del', {}, from), ' → ', h('ins', {}, to.join(' -> '))] : from));
      })))
    : baseline ? h('p.note', {}, 'Nothing changed against ', baseline, '.') : null);
}

function curves(measured, against, run) {
  const steps = [...measured.steps], values = {...measured.values};
  let evaluated = measured.evaluations;
  const shown = new Map();
  const grid = h('div.charts');
  const names = () => Object.keys(values).sort();
  const picker = h('select', {'aria-label': 'Add a curve', onchange: () => {
    if (picker.value) add(picker.value);
    picker.value = '';
  }});
  const nothing = h('div');
  const accuracies = (rows) => ({steps: rows.map((row) => row.step), values: rows.map((row) => row.problems > 0 ? 100 * row.correct / row.problems : null)});
  const accuracy = new Chart(accuracyTitle, {unit: '%', legend: false, format: (value) => typeof value === 'number' ? value.toFixed(1) : value});
  let accuracyShown = false;
  const shared = h('p.legend.shared', {}, h('span', {}, h('span.key.own'), `${run.run} s${run.seed}`), h('span', {}, h('span.key.dashed'), `${run.baseline}, the baseline`));

  function lines(key) {
    const all = [{label: `${run.run} s${run.seed}`, steps, values: values[key]}];
    if (against?.values[key]) all.push({label: `${run.baseline}, the baseline`, steps: against.steps, values: against.values[key], baseline: true});
    return all;
  }
  function drawAccuracy() {
    if (!evaluated.length) return;
    if (!accuracyShown) {
      grid.prepend(accuracy.element);
      accuracyShown = true;
    }
    const otherwise = (rows) => rows.some((row) => row.quant !== row.trained_quant) ? ' ‡' : '';
    const all = [{label: `${run.run} s${run.seed}${otherwise(evaluated)}`, ...accuracies(evaluated)}];
    accuracy.unit = `%${otherwise(evaluated)}`;
    if (against?.evaluations.length) all.push({label: `${run.baseline}, the baseline${otherwise(against.evaluations)}`, ...accuracies(against.evaluations), baseline: true});
    accuracy.set(all);
  }
  function add(key) {
    if (shown.has(key)) return;
    const chart = new Chart(key, {legend: false});
    put(chart.element.querySelector('figcaption'), h('button.close', {type: 'button', 'aria-label': `Remove ${key}`, title: 'Remove', onclick: () => { chart.remove(); shown.delete(key); offer(); }}, '×'));
    shown.set(key, chart);
    grid.append(chart.element);
    chart.set(lines(key));
    offer();
  }
  let offered = '';
  function offer() {
    const rest = names().filter((name) => !shown.has(name));
    if (rest.join() === offered) return;
    offered = rest.join();
    fill(picker, h('option', {value: ''}, `Add a curve … (${rest.length})`), rest.map((name) => h('option', {value: name}, name)));
    picker.hidden = rest.length === 0;
  }
  function start() {
    for (const key of first) if (values[key] && shown.size < most - 1) add(key);
    if (!shown.size) names().slice(0, most - 1).forEach(add);
    fill(nothing, steps.length || evaluated.length ? null : empty('Nothing measured yet.', 'Curves appear with the first step.'));
    offer();
  }
  drawAccuracy();
  start();
  return {
    element: h('div', {}, against ? shared : null, nothing, grid, h('p.picker', {}, picker)),
    lastStep: () => steps.length ? steps[steps.length - 1] : 0,
    evaluations(rows) {
      evaluated = rows;
      drawAccuracy();
    },
    add(points) {
      const fresh = !steps.length;
      const length = steps.length;
      const known = new Map(steps.map((step, i) => [step, i]));
      for (const step of points.steps) if (!known.has(step)) known.set(step, steps.push(step) - 1);
      for (const [key, column] of Object.entries(points.values)) {
        const own = values[key] = values[key] || new Array(length).fill(null);
        while (own.length < steps.length) own.push(null);
        column.forEach((value, i) => { if (value !== null) own[known.get(points.steps[i])] = value; });
      }
      for (const own of Object.values(values)) while (own.length < steps.length) own.push(null);
      for (const [key, chart] of shown) chart.set(lines(key));
      if (fresh || shown.size < 2) start();
      offer();
    },
  };
}

function findings(run) {
  const doctor = run.doctor?.findings || [], events = (run.events || []).filter((event) => !['started', 'finished'].includes(event.kind));
  const parts = [];
  if (doctor.length) parts.push(h('ul.findings', {}, doctor.map((finding) => h('li', {}, badge(finding.severity || 'info'),
    h('div', {}, h('p.lead', {}, finding.what), finding.evidence ? h('p', {}, finding.evidence) : null, finding.change ? h('p', {}, h('b', {}, 'To change it: '), finding.change) : null)))));
  if (events.length) parts.push(h('ul.findings', {}, events.map((event) => h('li', {}, badge(event.kind),
    h('div', {}, h('p', {}, event.step >= 0 ? h('span.at', {}, `step ${event.step} `) : null, event.message))))));
  if (!parts.length) parts.push(h('p.note', {}, run.doctor ? 'The preflight found nothing to warn of, and nothing was reported on the way.' : 'No preflight was made (', run.doctor ? '' : h('code', {}, `assay doctor ${run.number}`), run.doctor ? '' : ' makes one), and nothing was reported on the way.'));
  return {element: h('div', {}, parts)};
}

// Hypotheses, notes, tags, verdicts: what `assay note` and its like wrote down.
function notes(run) {
  const all = run.records || [], tags = all.filter((record) => record.kind === 'tag'), others = all.filter((record) => record.kind !== 'tag');
  if (!all.length) return {element: h('p.note', {}, 'None. ', h('code', {}, `assay note ${run.number} "…"`), ' writes one.')};
  return {element: h('div', {},
    tags.length ? h('p', {}, tags.map((tag) => h('span.tag', {}, tag.subject || tag.text))) : null,
    others.length ? h('ul.findings', {}, others.map((record) => h('li', {}, h('span.note', {}, record.kind, record.subject && record.kind !== 'note' ? ` ${record.subject}` : ''),
      h('div', {}, h('p.written', {}, record.text), h('p.note', {}, `${record.author || '–'}, ${when(record.time)}`))))) : null)};
}

function logs(base, start) {
  const state = {stdout: {text: start.text, to: start.to, from: start.from}, stderr: {text: '', to: 0, from: 0, unread: true}};
  let name = 'stdout', follow = true;
  const output = h('pre.log', {tabindex: '0', 'aria-label': 'Output of the trainer'});
  const tabs = h('div.chips', {role: 'group', 'aria-label': 'Which output'});
  const following = h('label.follow', {}, h('input', {type: 'checkbox', checked: true, onchange: (event) => { follow = event.target.checked; draw(); }}), ' follow');
  function draw() {
    fill(tabs, ['stdout', 'stderr'].map((each) => h('button.chip', {type: 'button', 'aria-pressed': String(each === name), onclick: () => choose(each)}, each)));
    output.textContent = (state[name].from > 0 ? '… (the beginning is left out)\n' : '') + state[name].text;
    output.classList.toggle('none', !state[name].text);
    if (!state[name].text) output.textContent = `Nothing on ${name}${state[name].unread ? ' yet' : ''}.`;
    if (follow) output.scrollTop = output.scrollHeight;
  }
  async function choose(each) {
    name = each;
    if (state[name].unread) {
      state[name].unread = false;
      try {
        const piece = await get(`${base}/log`, {name});
        state[name] = {text: piece.text, to: piece.to, from: piece.from};
      } catch (error) {
        problem('log', error.message);
      }
    }
    draw();
  }
  output.addEventListener('scroll', () => {
    const bottom = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
    if (bottom !== follow && output.scrollHeight > output.clientHeight) {
      follow = bottom;
      following.firstChild.checked = follow;
    }
  });
  requestAnimationFrame(draw);
  draw();
  return {
    element: h('div', {}, h('div.tools', {}, tabs, following), output),
    position: (each) => state[each].unread ? 0 : state[each].to,
    add(piece) {
      const own = state[piece.name];
      own.unread = false;
      if (piece.from === 0) [own.text, own.from] = ['', 0];
      own.text = (own.text + piece.text).slice(-400000);
      own.to = piece.from + new TextEncoder().encode(piece.text).length;
      if (piece.name === name) draw();
    },
  };
}

function flat(config, prefix = '') {
  return Object.entries(config || {}).flatMap(([key, value]) =>
    value && typeof value === 'object' && !Array.isArray(value) ? flat(value, `${prefix}${key}.`) : [[prefix + key, value]]);
}

function configuration(run) {
  const changed = run.changed || {}, all = flat(run.config);
  const body = h('tbody');
  const filter = h('input', {type: 'text', placeholder: 'Filter', 'aria-label': 'Filter the configuration', oninput: () => draw()});
  const only = h('input', {type: 'checkbox', onchange: () => draw()});
  function draw() {
    const text = filter.value.toLowerCase();
    const rows = all.filter(([key, value]) => (!only.checked || key in changed) && `${key} ${JSON.stringify(value)}`.toLowerCase().includes(text));
    let group = '';
    fill(body, rows.map(([key, value]) => {
      const [section] = key.split('.');
      const head = section !== group && key.includes('.') ? h('tr.group', {}, h('th', {colspan: '2', scope: 'rowgroup'}, section)) : null;
      group = section;
      const old = key in changed ? String(changed[key]).split(' -> ')[0] : null;
      return [head, h('tr', {class: key in changed ? 'changed' : null}, h('th', {scope: 'row'}, h('code', {}, key)),
        h('td', {}, h('code', {}, JSON.stringify(value)), old !== null ? h('span.was', {}, ` was ${old}`) : null))];
    }), rows.length ? null : h('tr', {}, h('td', {colspan: '2'}, 'No key matches.')));
  }
  draw();
  return {element: h('div', {}, h('div.tools', {}, filter, h('label.follow', {}, only, ` only what changed (${Object.keys(changed).length})`)), h('div.scroll', {}, h('table.plain.config', {}, body)))};
}

function record(run) {
  const code = run.code || {}, user = code.user, build = code.assay || code.build || {};
  const environment = run.environment || {};
  const commit = (part) => part ? `${part.commit ?? 'no commit'}${part.dirty ? ' (with changes, kept as dirty.diff)' : ''}` : '–';
  const processor = typeof environment.processor === 'object' && environment.processor ? environment.processor.model : environment.processor;
  const rows = [
    ['Repeat it', h('code', {}, `assay run ${run.number}`)],
    ['Folder', h('code', {}, run.folder)],
    ['Configuration', h('code', {}, `sha256 ${run.config_sha256}`)],
    ['Code', user ? h('code', {}, commit(user)) : 'no repository'],
    ['assay', build.commit ? h('code', {}, commit(build)) : '–'],
    ['Machine', [environment.host, processor].filter(Boolean).join(', ') || '–'],
    ['Queued', when(run.created)],
    ['Attempts', run.attempts.length ? run.attempts.map((attempt) => `${attempt.attempt}: ${attempt.state}`).join(', ') : 'none yet'],
    ['Labels', Object.entries(run.labels || {}).map(([key, value]) => `${key}=${value}`).join(', ') || '–'],
  ];
  return {element: h('table.plain', {}, h('tbody', {}, rows.map(([label, value]) => h('tr', {}, h('th', {scope: 'row'}, label), h('td', {}, value)))))};
}

start('runs', show);
