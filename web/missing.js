// An address that is no page's.
import {h, fill, empty} from './dom.js';
import {heading, start} from './app.js';

start('none', (main) => {
  heading('Not found');
  fill(main, empty('There is no such page.', h('a', {href: '/'}, 'All runs')));
});
