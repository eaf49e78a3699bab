// Making elements and words. Text is only ever set as text: nothing that a user wrote is read as markup.

export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name || 'div');
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key in element && typeof value !== 'string') element[key] = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  return put(element, ...children);
}

export function put(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren();
  return put(element, ...children);
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  for (const child of children) element.append(child);
  return element;
}

const missing = '–';

// A tie goes to the even digit, as in the reports: 8 of 128 are 6.2 %.
export function percent(share, digits = 1) {
  if (typeof share !== 'number') return missing;
  const value = share * 100;
  return (digits === 1 && value % 1 === 0.25 ? value - 0.05 : value).toFixed(digits);
}

export function number(value, digits = 3) {
  if (typeof value === 'string') return value;                     // nan, inf, -inf
  if (typeof value !== 'number') return missing;
  if (value === 0 || Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(Math.max(digits, 1 + Math.floor(Math.log10(Math.max(size, 1)))));
}

export function duration(seconds) {
  if (typeof seconds !== 'number' || !isFinite(seconds)) return missing;
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, '0')} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

export function when(unixSeconds) {
  if (!unixSeconds) return missing;
  const time = new Date(unixSeconds * 1000), pad = (n) => String(n).padStart(2, '0');
  return `${time.getFullYear()}-${pad(time.getMonth() + 1)}-${pad(time.getDate())} ${pad(time.getHours())}:${pad(time.getMinutes())}`;
}

export function thousands(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, '\u2009');
}

export function plural(count, one, many = one + 's') {
  return `${thousands(count)} ${count === 1 ? one : many}`;
}

export function pValue(p) {
  if (typeof p !== 'number') return missing;
  return p < 0.001 ? '<.001' : p.toFixed(3).replace(/^0/, '');
}

// An accuracy that was measured under another quantization than the run is trained under.
export function mark(other) {
  return other ? h('sup.other', {title: 'measured under another quantization than trained under, or under one that is not known'}, '‡') : null;
}

// A state or a status: always its word, with a mark before it; never by colour alone.
export function badge(word, detail) {
  return h('span.badge.' + word, {title: detail || null}, word);
}

export function bar(share) {
  const meter = h('span.bar', {'aria-hidden': 'true'});
  meter.style.setProperty('--share', `${Math.max(0, Math.min(1, share || 0)) * 100}%`);
  return meter;
}

export function took(row, now) {
  if (!row.started) return missing;
  return duration((row.ended || now) - row.started);
}

export function empty(title, ...more) {
  return h('div.empty', {}, h('p.lead', {}, title), more.map((each) => h('p', {}, each)));
}
