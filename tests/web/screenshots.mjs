// The pictures of docs/serve.md, from the real page: tests/web/browser BUILD_DIR WEB_DIR --screenshots OUT --home HOME
// HOME is a data folder with a series that has been run ($ASSAY_HOME of `assay run e13 --seeds 1,2,3`). Ends with 1 when anything stands on the browser's console.
import {spawn, execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {pathToFileURL} from 'node:url';

const [build, web, chromiumPath, ...words] = process.argv.slice(2);
const option = (name, otherwise) => words.includes(name) ? words[words.indexOf(name) + 1] : otherwise;
const out = path.resolve(option('--screenshots')), home = option('--home'), series = option('--series', 'e13');
if (!home) {
  console.log('--home HOME is missing: the data folder of a series that has been run');
  process.exit(2);
}
const {chromium} = await import(pathToFileURL(path.resolve(web, 'playwright-core/index.mjs')));
fs.mkdirSync(out, {recursive: true});
const assay = path.resolve(build, 'bin/assay'), env = {...process.env, ASSAY_HOME: path.resolve(home)};
const server = spawn(assay, ['serve', '--port', '0', '--json'], {env, stdio: ['ignore', 'pipe', 'inherit']});
const base = await new Promise((resolve, reject) => {
  let text = '';
  server.stdout.on('data', (piece) => { text += piece; if (text.includes('\n')) resolve(`http://127.0.0.1:${JSON.parse(text).port}`); });
  server.on('exit', (code) => reject(new Error(`assay serve ended with ${code}`)));
});
const browser = await chromium.launch({executablePath: chromiumPath, args: ['--no-sandbox', '--disable-gpu', '--font-render-hinting=none']});
let complaints = 0;

async function shoot(name, address, {width = 1280, height = 800, dark = false, phone = false, ready = null, act = null, clip = null} = {}) {
  const context = await browser.newContext({viewport: {width, height}, colorScheme: dark ? 'dark' : 'light', reducedMotion: 'reduce',
                                            ...(phone ? {hasTouch: true, isMobile: true} : {})});
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  page.on('console', (message) => { if (['error', 'warning'].includes(message.type())) { ++complaints; console.log(`${name}: ${message.text()}`); } });
  page.on('pageerror', (error) => { ++complaints; console.log(`${name}: ${error}`); });
  await page.goto(base + address, {waitUntil: 'load'});
  await page.waitForSelector('html[data-ready]');
  if (ready) await page.waitForSelector(ready);
  if (act) await act(page);
  await page.waitForTimeout(400);
  const file = path.join(out, `${name}.png`);
  await page.screenshot({path: file, ...(clip ? {clip} : {})});
  const bytes = fs.statSync(file).size;
  console.log(`${name}.png ${Math.round(bytes / 1024)} KB${bytes > 150 * 1024 ? ', more than 150 KB' : ''}`);
  await context.close();
}
const scroll = (selector, by = -70) => (page) => page.evaluate(([s, y]) => { document.querySelector(s).scrollIntoView(); scrollBy(0, y); }, [selector, by]);

try {
  const runs = JSON.parse(execFileSync(assay, ['status', series, '--json'], {env, encoding: 'utf8'}));
  const best = runs.filter((run) => run.state === 'succeeded' && /g-/.test(run.run))[0] || runs[0];
  await shoot('runs', '/', {ready: '.list .row a', height: 680});
  await shoot('run', `/run/${best.number}`, {ready: 'figure.chart canvas', height: 900});
  await shoot('run-answers', `/run/${best.number}`, {ready: '.samples li', act: scroll('#answers')});
  await shoot('compare', `/compare?what=${series}`, {ready: '.comparison tbody tr', height: 860});
  await shoot('compare-problems', `/compare?what=${series}`, {ready: '.pairs li', act: scroll('.pairs', -150)});
  await shoot('series-report', `/series/${series}`, {ready: 'iframe.report', height: 1000, act: async (page) => {
    await page.frameLocator('iframe.report').locator('h2#results').waitFor();
    await scroll('#report', -10)(page);
  }});
  await shoot('phone', '/', {width: 390, height: 760, phone: true, ready: '.list .row a'});
  await shoot('phone-run', `/run/${best.number}`, {width: 390, height: 760, phone: true, ready: 'figure.chart canvas'});
  await shoot('dark-run', `/run/${best.number}`, {dark: true, ready: 'figure.chart canvas', height: 900});
  await shoot('dark-compare', `/compare?what=${series}`, {dark: true, ready: '.comparison tbody tr'});
  await shoot('dark-report', `/series/${series}`, {dark: true, ready: 'iframe.report', height: 820, act: async (page) => {
    await page.frameLocator('iframe.report').locator('h2#results').waitFor();
    await scroll('#report', -10)(page);
  }});
} finally {
  await browser.close();
  server.removeAllListeners('exit');
  server.kill();
}
console.log(complaints ? `${complaints} complaints on the console` : 'nothing on the console');
process.exit(complaints ? 1 : 0);
