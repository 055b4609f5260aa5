// Leaves out the features that need an operating system, except for `console.log` and the stack of an exception.
import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const { component } = await componentize(await readFile('words.js', 'utf8'), {
  witPath: '../../../wit',
  worldName: 'plugin',
  disableFeatures: ['random', 'clocks', 'http', 'fetch-event'],
});
await writeFile('dist/words.wasm', component);
