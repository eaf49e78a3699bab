// Asking the server, and listening to it.

export class Refused extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== '') query.append(key, each);
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused('The server of this page does not answer. If it has ended, type `assay serve` again.', 0);
  }
  const document = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(document.error || `The server answered ${response.status}.`, response.status);
  return document;
}

export function get(path, parameters, signal) {
  return answer(fetch(address(path, parameters), {signal, credentials: 'omit'}));
}

// The token comes in the address that `assay serve --allow-actions` printed, after the #, which is never sent anywhere.
export function takeToken() {
  const found = /^#token=([0-9a-f]{64})$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem('token', found[1]);
  localStorage.setItem('token', found[1]);
  history.replaceState(null, '', location.pathname + location.search);
}

export function act(what, body) {
  const token = sessionStorage.getItem('token') || localStorage.getItem('token') || '';
  return answer(fetch(`/api/actions/${what}`, {
    method: 'POST',
    headers: {'Content-Type': 'application/json', 'X-Assay-Token': token},
    body: JSON.stringify(body),
  }));
}

// Server-sent events while the page is seen: a browser opens six connections to a server and no more, and a page in a
// hidden tab need not hold one. `path` is a function, asked at each start; `resumed` is called when the page is seen
// again after a while, when it may have missed something.
export function listen(path, handlers, {lost, found, resumed}) {
  let source = null, quiet = null, away = false;
  const open = () => {
    const parameters = path();
    source = new EventSource(address(parameters.path, parameters.query));
    for (const [name, handler] of Object.entries(handlers))
      source.addEventListener(name, (event) => handler(JSON.parse(event.data)));
    source.onopen = () => found();
    source.onerror = () => {
      lost();
      if (source.readyState === EventSource.CLOSED) setTimeout(() => source && restart(), 2000);
    };
  };
  const close = () => {
    if (source) source.close();
    source = null;
  };
  const restart = () => {
    close();
    open();
  };
  document.addEventListener('visibilitychange', () => {
    clearTimeout(quiet);
    if (document.hidden) {
      quiet = setTimeout(() => {
        away = true;
        close();
      }, 5000);
    } else if (away) {
      away = false;
      resumed();
      open();
    }
  });
  addEventListener('pagehide', close);
  addEventListener('pageshow', (event) => {
    if (event.persisted) {
      resumed();
      restart();
    }
  });
  open();
  return {restart, close};
}
