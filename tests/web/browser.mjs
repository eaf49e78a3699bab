// What a person sees and does, in a real Chromium: run by tests/web/browser.
import {spawn, execFileSync} from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {pathToFileURL} from 'node:url';

const [build, web, chromiumPath, ...more] = process.argv.slice(2);
const loads = more.includes('--loads') ? Number(more[more.indexOf('--loads') + 1]) : 5;
const {chromium} = await import(pathToFileURL(path.resolve(web, 'playwright-core/index.mjs')));
const bin = (name) => path.resolve(build, 'bin', name);
const root = path.resolve(build, 'test-data/browser');
const patience = 60_000;               // for what must come; the machine may be busy
fs.rmSync(root, {recursive: true, force: true});
fs.mkdirSync(root, {recursive: true});

let checks = 0, failures = 0;
function check(what, holds, seen = '') {
  ++checks;
  if (holds) return;
  ++failures;
  console.log(`FAILED: ${what}${seen !== '' ? `: ${typeof seen === 'string' ? seen : JSON.stringify(seen)}` : ''}`);
}

// ---- an assay of the test's own ----------------------------------------------------------------------------------
class Home {
  constructor(name) {
    this.folder = path.join(root, name);
    this.env = {...process.env, ASSAY_HOME: path.join(this.folder, 'home'), ASSAY_SLOTS: '2', ASSAY_EXPERIMENTS: path.join(this.folder, 'series')};
    for (const part of ['home', 'series', 'gates']) fs.mkdirSync(path.join(this.folder, part), {recursive: true});
  }
  assay(...words) { return execFileSync(bin('assay'), words, {env: this.env, encoding: 'utf8', cwd: this.folder, stdio: ['ignore', 'pipe', 'ignore']}); }
  series(id, title, runs) {
    const quoted = (text) => JSON.stringify(text);
    let text = `[series]\nid = ${quoted(id)}\ntitle = ${quoted(title)}\ngoal = ${quoted(title)}\n[base.trainer]\nkind = "command"\nargv = ["true"]\n`;
    for (const run of runs) {
      const script = path.join(this.folder, `${id}-${run.id}.sh`);
      fs.writeFileSync(script, `GATES='${this.folder}/gates'\ncd "$ASSAY_RUN_DIR"; mkdir -p eval\n` +
        `metric() { echo '{"step": '$1', "time": '$(date +%s)', "metrics": {"critic/score/mean": '$2', "actor/grad_norm": '$2'}}' >> metrics.jsonl; }\n` +
        `evaluation() { printf '{"index":0,"outcome":"correct","completion":"<i>#### 4</i>"}\\n{"index":1,"outcome":"'$2'","completion":"5"}\\n' > eval/step-$(printf %06d $1).jsonl\n` +
        `  echo '{"step":'$1',"problems":2,"correct":'$3',"quant":"none","trained_quant":"none","data_sha256":"d"}' > eval/tmp; mv eval/tmp eval/step-$(printf %06d $1).json; }\n` +
        `gate() { while [ ! -e "$GATES/$1" ]; do sleep 0.05; done; }\n${run.script}\n`);
      text += `[[run]]\nid = ${quoted(run.id)}\ntitle = ${quoted(run.title)}\nhypothesis = ${quoted(run.title)}\nbaseline = ${quoted(run.baseline || '')}\nchange = { "trainer.argv" = ["/bin/sh", ${quoted(script)}], "train.steps" = ${run.steps || 3} }\n`;
    }
    fs.writeFileSync(path.join(this.folder, 'series', `${id}.toml`), text);
  }
  open(gate) { fs.writeFileSync(path.join(this.folder, 'gates', gate), ''); }
  async serve(...words) {
    this.server = spawn(bin('assay'), ['serve', '--port', '0', '--json', ...words], {env: this.env, cwd: this.folder});
    const line = await new Promise((resolve, reject) => {
      let text = '';
      this.server.stdout.on('data', (piece) => { text += piece; if (text.includes('\n')) resolve(text); });
      this.server.on('exit', (code) => reject(new Error(`assay serve ended with ${code}`)));
    });
    const said = JSON.parse(line);
    this.base = `http://127.0.0.1:${said.port}`;
    this.url = said.url;
  }
  close() {
    this.server?.removeAllListeners('exit');
    this.server?.kill();
    try { this.assay('kill', ...this.all(), '--grace', '0'); } catch { /* nothing was running */ }
    try { this.assay('daemon', 'stop'); } catch { /* it had ended */ }
  }
  all() { return JSON.parse(this.assay('status', '--all', '--json')).map((run) => String(run.number)); }
}

// ---- the browser ---------------------------------------------------------------------------------------------------
const browser = await chromium.launch({executablePath: chromiumPath, args: ['--no-sandbox', '--disable-gpu', '--force-prefers-reduced-motion']});
async function open(home, options = {}) {
  const context = await browser.newContext({viewport: {width: 1280, height: 800}, reducedMotion: 'reduce', ...options});
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  page.complaints = [];
  page.expected = [];                  // complaints that a test brings about on purpose
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) page.complaints.push(`${message.text()} ${message.location().url}`); });
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('dialog', (dialog) => {
    if (dialog.type() === 'alert') page.complaints.push(`a dialog: ${dialog.message()}`);
    dialog.accept();
  });
  page.on('request', (request) => { if (!request.url().startsWith(home.base) && !request.url().startsWith('data:')) page.complaints.push(`asks ${request.url()}`); });
  return page;
}
async function visit(page, address) {
  await page.goto(address, {waitUntil: 'domcontentloaded'});
  await page.waitForSelector('html[data-ready]');
}
function quiet(page, where) {
  check(`${where}: nothing on the console`, page.complaints.length === 0, page.complaints);
  page.complaints.length = 0;
}
async function fits(page, where) {
  const [wide, window] = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
  check(`${where}: no wider than the screen`, wide <= window, `${wide} of ${window}`);
}
// WCAG's contrast of the words of each element against what lies behind it.
async function readable(page, where) {
  const poor = await page.evaluate(() => {
    const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const color = parse(getComputedStyle(at).backgroundColor);
        if (color.length === 3 || color[3] > 0.99) return color;
      }
      return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll('body *')) {
      if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !element.checkVisibility() || element.disabled) continue;
      const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) found.push(`${element.tagName}.${element.className} '${element.textContent.slice(0, 30)}' ${contrast.toFixed(2)}`);
    }
    return found.slice(0, 5);
  });
  check(`${where}: contrast of 4.5 or more`, poor.length === 0, poor);
}
const hostile = '<script>alert(1)</script><img src=x onerror=alert(2)>"\'&';

const scenarios = {
  async 'a live run'() {
    const home = new Home('live');
    home.series('s', hostile, [
      {id: 'base', title: 'The baseline', script: 'evaluation 0 wrong 1; metric 1 0.1; metric 2 0.2; metric 3 0.3; evaluation 3 correct 2'},
      {id: 'live', title: hostile, baseline: 'base', script: `evaluation 0 wrong 1; metric 1 0.125; echo 'first ${'<b>line</b>'}'; gate two; metric 2 0.5; echo second; gate three; metric 3 0.75; evaluation 3 correct 2`},
      {id: 'bad', title: 'Ends badly', script: 'metric 1 0.1; echo "no memory <i>left</i>" >&2; exit 1'},
    ]);
    home.assay('add', 's', '--only', 'base');
    home.assay('wait', 'base');
    home.assay('add', 's', '--only', 'live,bad');
    await home.serve('--allow-actions');
    try {
      const page = await open(home);
      await visit(page, home.url);
      check('the token leaves the address', !page.url().includes('token'), page.url());
      await page.waitForSelector('.list .row .badge.running');
      await page.waitForSelector('.list .row .badge.failed');
      check('a hostile title is text', await page.locator('.list .title', {hasText: '<script>alert(1)'}).count() === 1);
      check('three rows', await page.locator('.list .row').count() === 3);
      await readable(page, 'runs');
      quiet(page, 'runs');

      await page.click('.list .row:has(.badge.running) a');
      await page.waitForSelector('html[data-ready]');
      const score = page.locator('figure.chart', {hasText: 'critic/score/mean'});
      await score.locator('canvas').waitFor();
      const value = () => score.locator('.value').innerText();
      await page.waitForFunction(() => document.querySelector('.log').textContent.includes('first <b>line</b>'));
      check('the curve stands at its first step', (await value()).includes('0.125'), await value());
      const picture = () => score.locator('canvas').evaluate((canvas) => canvas.toDataURL());
      const before = await picture();
      home.open('two');
      await page.waitForFunction(() => [...document.querySelectorAll('figure.chart')].find((each) => each.textContent.includes('critic/score/mean')).querySelector('.value').textContent.includes('step 2'));
      check('the curve has moved while the run runs', (await value()).startsWith('0.5') && await picture() !== before, await value());
      await page.waitForFunction(() => document.querySelector('.log').textContent.includes('second'));
      check('the run still runs', await page.locator('.standing .badge.running').count() === 1);
      check('the baseline is drawn with it', (await page.locator('.legend.shared').innerText()).includes('base, the baseline'));
      check('what changed is shown', (await page.locator('.change').innerText()).includes('trainer.argv'));
      check('markup in a hypothesis is text', await page.locator('.hypothesis').innerText() === hostile);
      home.open('three');
      await page.waitForSelector('.standing .badge.succeeded');
      await page.waitForSelector('.samples li');
      check('answers are text', (await page.locator('.samples pre').first().innerText()) === '<i>#### 4</i>');
      await page.click('.within a[href="#answers"]');
      await readable(page, 'a run');
      quiet(page, 'a run');

      // The series page holds the report, as tall as it is, and what is written in it stays text.
      const other = await open(home);
      await visit(other, `${home.base}/series/s`);
      const report = other.frameLocator('iframe.report');
      await report.locator('h2#results').waitFor();
      check('the report is in the series page', (await report.locator('h1').innerText()) === hostile, await report.locator('h1').innerText());
      check('the report is drawn', await report.locator('figure img').count() >= 1);
      await other.waitForFunction(() => document.querySelector('iframe.report').offsetHeight > 1500);
      await fits(other, 'series');
      quiet(other, 'series');
      // Both answers of what was gained and lost stand side by side.
      await visit(other, `${home.base}/compare?what=1&what=2`);
      await other.waitForSelector('.pairs li, .tools + div .note');
      check('a pair is counted', (await other.locator('main').innerText()).includes('2 problems:'), await other.locator('main').innerText());
      quiet(other, 'problems');
      await other.context().close();

      // Again, and end it, by the page.
      await page.waitForTimeout(1500);       // it reads itself anew once the run has ended
      await page.waitForSelector('html[data-ready]');
      fs.rmSync(path.join(home.folder, 'gates', 'two'));
      await Promise.all([page.waitForURL('**/run/4'), page.click('text=Run again')]);
      await page.waitForSelector('.standing .badge.running');
      await page.click('.actions .danger');
      await page.waitForSelector('.standing .badge.killed');
      quiet(page, 'actions');

      // What goes wrong is said: first the daemon, then the page's own server.
      home.assay('daemon', 'stop');
      await page.waitForSelector('#banner:has-text("The daemon does not run")');
      home.assay('status');
      await page.waitForSelector('#banner', {state: 'hidden'});
      home.server.removeAllListeners('exit');
      home.server.kill();
      await page.waitForSelector('#banner:has-text("does not answer")');
      page.complaints.length = 0;            // the browser itself says that the connection is refused
    } finally {
      home.close();
    }
  },

  async 'keyboard, phone and dark'() {
    const home = new Home('views');
    home.series('s', 'A series', ['a', 'b', 'c'].map((id) => ({id, title: `Run ${id} with a title of some length that must not break anything`, baseline: id === 'a' ? '' : 'a', script: 'evaluation 0 wrong 1; metric 1 0.1; metric 2 0.3; metric 3 0.2; evaluation 3 correct 2'})));
    home.assay('add', 's');
    home.assay('wait', 's');
    await home.serve();
    try {
      const page = await open(home);
      await visit(page, home.base);
      await page.keyboard.press('j');
      await page.keyboard.press('x');
      await page.keyboard.press('j');
      await page.keyboard.press('x');
      check('two are marked', (await page.locator('.tray').innerText()).includes('2 runs marked'), await page.locator('.tray').innerText());
      await Promise.all([page.waitForURL('**/compare?**'), page.keyboard.press('c')]);
      await page.waitForSelector('.comparison tbody tr');
      await page.waitForSelector('html[data-ready]');
      check('both are compared', await page.locator('.comparison tbody tr').count() >= 2);
      await page.locator('.pin').first().focus();
      await page.keyboard.press('Enter');
      await page.waitForSelector('tr.pinned');
      check('the pinned baseline is in the address', page.url().includes('baseline='), page.url());
      quiet(page, 'compare');
      await page.evaluate(() => document.activeElement.blur());
      await page.keyboard.press('g');
      await Promise.all([page.waitForURL(home.base + '/'), page.keyboard.press('r')]);
      await page.waitForSelector('.list .row a');
      await page.waitForSelector('html[data-ready]');
      await page.keyboard.press('/');
      check('/ goes to the search', await page.evaluate(() => document.activeElement.type === 'search'));
      await page.keyboard.type('b');
      await page.waitForFunction(() => document.querySelectorAll('.list .row').length === 1);
      await page.keyboard.press('Enter');
      const ring = await page.evaluate(() => getComputedStyle(document.querySelector('.row.active')).outlineStyle);
      check('the row in focus has a ring', ring === 'solid', ring);
      await Promise.all([page.waitForURL('**/run/2'), page.keyboard.press('Enter')]);
      await page.waitForSelector('html[data-ready]');
      await page.keyboard.press('?');
      check('? shows the keys', await page.locator('dialog[open]').count() === 1);
      await page.keyboard.press('Escape');
      check('and Escape closes them', await page.locator('dialog[open]').count() === 0);
      await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
      await page.keyboard.press('Tab');
      check('the first Tab skips to the content', await page.evaluate(() => document.activeElement.className === 'skip'));
      quiet(page, 'keyboard');
      await page.context().close();

      for (const colorScheme of ['light', 'dark']) {
        const phone = await open(home, {viewport: {width: 360, height: 740}, colorScheme, hasTouch: true, isMobile: true});
        for (const place of ['/', '/run/1', '/series', '/series/s', '/compare?what=s', '/nowhere']) {
          await visit(phone, home.base + place);
          await phone.waitForTimeout(150);
          await fits(phone, `phone ${place}`);
          await readable(phone, `${colorScheme} ${place}`);
          if (place !== '/nowhere') quiet(phone, `phone ${place}`);
          phone.complaints.length = 0;
        }
        const background = await phone.evaluate(() => getComputedStyle(document.body).backgroundColor);
        check(`${colorScheme} is ${colorScheme}`, (Number(background.match(/\d+/)[0]) < 60) === (colorScheme === 'dark'), background);
        await phone.context().close();
      }
    } finally {
      home.close();
    }
  },

  async '10,000 runs'() {
    const home = new Home('many');
    execFileSync(bin('web_registry'), [path.join(home.folder, 'home'), '10000']);
    await home.serve();
    try {
      const page = await open(home);
      await visit(page, home.base);           // the server has read its registry once
      // When the first row was on the screen, as the browser says; and beside it the same of a page that holds one word,
      // from a server of this process: what the browser itself takes on this machine at this minute.
      const bare = http.createServer((request, response) => {
        response.setHeader('Content-Type', 'text/html');
        response.end('<!doctype html><title>bare</title><p elementtiming="row">word</p>');
      }).listen(0, '127.0.0.1');
      const load = async (address) => {
        await page.waitForTimeout(500);         // the page before has been painted: its work is not this one's
        await page.goto(address, {waitUntil: 'commit'});
        return page.evaluate(() => new Promise((resolve) =>
          new PerformanceObserver((list) => resolve(list.getEntries()[0].renderTime)).observe({type: 'element', buffered: true})));
      };
      await page.waitForTimeout(2000);          // nor is what a browser does for itself in its first seconds
      const times = [], bares = [];
      for (let i = 0; i < loads; ++i) {
        times.push(await load(home.base));
        bares.push(await load(`http://127.0.0.1:${bare.address().port}/`));
      }
      bare.close();
      page.complaints.length = 0;               // of the other server: another address, no icon
      const figures = (all) => all.sort((a, b) => a - b).map((time) => time.toFixed(0)).join(', ');
      console.log(`first page with 10,000 runs: ${figures(times)} ms from the start of the navigation to rows on the screen (aim: 200 ms); a page of one word: ${figures(bares)} ms`);
      await page.goto(home.base);
      check('rows come within a generous bound', times[0] < 5000, times);
      await page.waitForSelector('html[data-ready]');
      check('all are counted', (await page.locator('.foot').innerText()).replace(/\u2009/g, '').startsWith('10000 runs'), await page.locator('.foot').innerText());
      const rows = () => page.locator('.list .row').count();
      check('only what is seen is in the page', await rows() < 80, await rows());
      // Where two of the pages that are asked for meet, each is asked for once and both stay.
      const asked = [];
      const note = (request) => { if (request.url().includes('/api/runs?')) asked.push(request.url()); };
      page.on('request', note);
      await page.evaluate(() => scrollTo(0, document.querySelector('.list').offsetTop + 115 * 40));
      await page.waitForFunction(() => ['row-119', 'row-120'].every((id) => document.getElementById(id)?.querySelector('a')));
      await page.waitForTimeout(500);
      check('a place between two pages is read once', asked.length <= 3, asked);
      check('and nothing of it is still loading', await page.locator('.list .loading').count() === 0);
      page.off('request', note);
      await page.evaluate(() => scrollTo(0, 0));
      await page.keyboard.press('j');
      await page.keyboard.press('End');
      await page.waitForFunction(() => [...document.querySelectorAll('.list .row a')].some((a) => a.getAttribute('href') === '/run/1'));
      check('the last row is reached by a key', await page.locator('.row.active a').getAttribute('href') === '/run/1');
      check('and still only what is seen is there', await rows() < 80, await rows());
      await page.click('button.sort:has-text("Accuracy")');
      await page.waitForFunction(() => /^(100\.0|99\.9)/.test(document.querySelector('.list .row .accuracy')?.textContent ?? ''));
      await page.fill('input[type=search]', 'lr-77');
      await page.waitForFunction(() => document.querySelector('.foot').textContent.startsWith('110 runs'));
      quiet(page, '10,000 runs');
    } finally {
      home.close();
    }
  },
};

const only = more.includes('--only') ? more[more.indexOf('--only') + 1] : '';
for (const [name, scenario] of Object.entries(scenarios)) {
  if (only && name !== only) continue;
  const before = failures;
  try {
    await scenario();
  } catch (error) {
    ++failures;
    console.log(`FAILED: ${name}: ${error.stack || error}`);
  }
  console.log(`${failures === before ? 'ok' : 'not ok'}: ${name}`);
}
await browser.close();
console.log(`${checks} checks, ${failures} failed`);
process.exit(failures ? 1 : 0);
