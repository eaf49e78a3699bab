// Curves, drawn by uPlot on a canvas. Colours come from the style sheet, so that dark mode is one set of variables.
import uPlot from './uPlot.js';
import {h, fill, number} from './dom.js';

document.head.append(h('link', {rel: 'stylesheet', href: new URL('./uPlot.css', import.meta.url).pathname}));

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const palette = () => Array.from({length: 8}, (_, i) => color(`--curve-${i}`));

const charts = new Set();
const dark = matchMedia('(prefers-color-scheme: dark)');
dark.addEventListener('change', () => charts.forEach((chart) => chart.rebuild()));
const watcher = new ResizeObserver((entries) => {
  for (const {target, contentRect} of entries)
    if (target.chart && contentRect.width > 0) target.chart.resize(contentRect.width);
});

const numeric = (value) => typeof value === 'number' && isFinite(value) ? value : null;

// One picture. `series`: [{label, steps, values, baseline, interval: [[low], [high]]}] in the picture's own unit.
export class Chart {
  constructor(title, {unit = '', height = 180, format = number, legend = true} = {}) {
    this.title = title;
    this.unit = unit;
    this.height = height;
    this.format = format;
    this.legendWanted = legend;
    this.series = [];
    this.value = h('span.value');
    this.plot = h('div.plot');
    this.plot.chart = this;
    this.legend = h('p.legend', {hidden: true});
    this.element = h('figure.chart', {}, h('figcaption', {}, h('span.name', {title}, title), this.value), this.plot, this.legend);
    charts.add(this);
    watcher.observe(this.plot);
  }

  remove() {
    charts.delete(this);
    watcher.unobserve(this.plot);
    this.uplot?.destroy();
    this.element.remove();
  }

  resize(width) {
    if (this.uplot) this.uplot.setSize({width: Math.floor(width), height: this.height});
    else this.rebuild();
  }

  // All series on the union of their steps.
  data() {
    const steps = [...new Set(this.series.flatMap((each) => each.steps))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, i) => [step, i]));
    const column = (from, values) => {
      const all = new Array(steps.length).fill(undefined);   // undefined: not measured there, the line goes on
      values.forEach((value, i) => { all[place.get(from[i])] = numeric(value); });
      return all;
    };
    return [steps, ...this.series.map((each) => column(each.steps, each.values))];
  }

  set(series) {
    const same = this.uplot && series.length === this.series.length &&
                 series.every((each, i) => each.label === this.series[i].label);
    this.series = series;
    this.show(null);
    if (same) this.uplot.setData(this.data());
    else this.rebuild();
  }

  show(index) {
    const own = this.series[0];
    if (!own) return fill(this.value);
    let at = own.values.length - 1;
    if (index !== null && index !== undefined) at = own.steps.indexOf(this.uplot.data[0][index]);
    while (index === null && at >= 0 && own.values[at] === null) --at;
    const value = at >= 0 ? own.values[at] : null;
    fill(this.value, value === null || value === undefined ? '–' : this.format(value), value === null || value === undefined ? null : h('span.unit', {}, this.unit ? ` ${this.unit}` : ''),
         at >= 0 ? h('span.at', {}, ` step ${own.steps[at]}`) : null);
    this.plot.setAttribute('role', 'img');
    this.plot.setAttribute('aria-label', `${this.title}: ${this.value.textContent}`);
  }

  rebuild() {
    this.uplot?.destroy();
    this.uplot = null;
    const width = Math.floor(this.plot.clientWidth);
    if (!width || !this.series.length) return;
    const colors = palette(), muted = color('--muted'), line = color('--line');
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {stroke: muted, font, grid: {stroke: line, width: 1}, ticks: {show: false}, gap: 4};
    let own = 0;
    const looks = this.series.map((each) => each.baseline
      ? {label: each.label, stroke: muted, width: 1.25, dash: [5, 4], points: {show: false}, spanGaps: true}
      : {label: each.label, stroke: colors[own++ % colors.length], width: 1.75, spanGaps: true,
         points: {show: each.steps.length < 40, size: 4}});
    this.uplot = new uPlot({
      width, height: this.height, padding: [8, 8, 0, 0], legend: {show: false},
      cursor: {y: false, points: {size: 6}, drag: {x: true, y: false}},
      scales: {x: {time: false}, y: {range: (u, low, high) => low === null ? [0, 1] : low === high ? [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1] : uPlot.rangeNum(low, high, {min: {pad: 0.06, soft: 0, mode: low >= 0 ? 2 : 3}, max: {pad: 0.06}})}},
      axes: [{...axis, size: 24, space: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000]},
             {...axis, size: 44, space: 28, values: (u, ticks) => ticks.map((tick) => Number(tick.toPrecision(6)).toString().replace('-', '−'))}],
      series: [{label: 'step'}, ...looks],
      hooks: {setCursor: [(u) => this.show(u.cursor.idx ?? null)]},
    }, this.data(), this.plot);
    this.legend.hidden = this.series.length < 2 || !this.legendWanted;
    own = 0;
    fill(this.legend, this.series.map((each) => {
      const key = h(each.baseline ? 'span.key.dashed' : 'span.key');
      key.style.borderTopColor = each.baseline ? muted : colors[own++ % colors.length];
      return h('span', {}, key, each.label);
    }));
  }
}
