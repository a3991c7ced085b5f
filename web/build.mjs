/**
 * Builds the page: node web/build.mjs --model=FOLDER --output=FOLDER [--samples=FOLDER]
 *
 * The output is files alone, for any server of files: the page, LiteRT's WebAssembly, the export's
 * model.tflite and model.json, and some samples.
 */

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { build } from 'esbuild';

const here = path.dirname(fileURLToPath(import.meta.url));
const source = path.join(here, 'src');
const runtime = path.join(here, 'node_modules', '@litertjs', 'core', 'wasm');
// With relaxed SIMD, and for browsers without. Threads would need a server that sends headers.
const RUNTIMES = ['litert_wasm_internal', 'litert_wasm_compat_internal'];
const PROGRAMS = ['main', 'worker'];
/** Lists the files of a build, which the next one there removes, and no others. */
const BUILT = 'built.json';
const SAMPLES = 14;
const IMAGES = /\.(avif|bmp|gif|jpe?g|png|webp)$/i;

/** What the user can mend: a sentence without a stack. */
class Sentence extends Error {}

function checkModel(folder) {
  const lacks = ['model.json', 'model.tflite'].find(
    (name) => !fs.existsSync(path.join(folder, name)));
  if (!lacks) return;
  const there = exportedFormats(folder);
  const formats = [...there, 'tflite'].join(',');
  const run = there.length ? 'RUN' : 'runs/digits';  // It is of a run that nobody here knows.
  throw new Sentence(
    `${path.join(folder, lacks)} does not exist; export a run first `
    + `(python -m basisnet_jax.main --mode=export --workdir=${run} --format=${formats} `
    + `--output=${folder}), or name another export: make web WEB=FOLDER.`);
}

/** Of an export without tflite, which has to be among others there. */
function exportedFormats(folder) {
  try {
    const { formats } = JSON.parse(fs.readFileSync(path.join(folder, 'model.json'), 'utf-8'));
    return formats.filter((name) => name !== 'tflite');
  } catch {
    return [];
  }
}

/** The files of a folder and of the folders in it, by their paths from there. */
function filesOf(folder) {
  return fs.readdirSync(folder, { recursive: true })
    .filter((name) => !fs.lstatSync(path.join(folder, name)).isDirectory());
}

/** Some images of a folder and the folders in it, evenly: some of each class, if those are they. */
function pickSamples(folder) {
  if (!folder) return [];
  if (!fs.existsSync(folder)) throw new Sentence(`SAMPLES=${folder} does not exist.`);
  // A Mac writes ._1.jpg, which is no image, beside 1.jpg on other systems' disks.
  const all = filesOf(folder)
    .filter((name) => IMAGES.test(name) && !path.basename(name).startsWith('.')).sort();
  if (!all.length) throw new Sentence(`SAMPLES=${folder} has no images that browsers show.`);
  const count = Math.min(all.length, SAMPLES);
  return Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)]);
}

/** Makes the folder empty of what was built there before; throws where there is anything else. */
function clear(output) {
  if (!fs.existsSync(output)) return;
  const built = [BUILT, ...builtBefore(output)];
  const found = filesOf(output);
  const other = found.find((name) => !built.includes(name.split(path.sep).join('/')));
  if (other) {
    throw new Sentence(
      `${path.join(output, other)} was not written by make web: name a new folder, or move it.`);
  }
  // The list last: without it the rest would be anybody's.
  found.sort((a, b) => (a === BUILT) - (b === BUILT));
  for (const name of found) fs.rmSync(path.join(output, name));
}

function builtBefore(output) {
  try {
    const names = JSON.parse(fs.readFileSync(path.join(output, BUILT), 'utf-8'));
    if (Array.isArray(names)) return names;
  } catch {
    // No list, or somebody else's: nothing is known to be of here.
  }
  return [];
}

function isWithin(file, folder) {
  return path.resolve(file).startsWith(path.resolve(folder) + path.sep);
}

async function write(model, samples, output) {
  checkModel(model);
  const picked = pickSamples(samples);
  if (picked.some((name) => isWithin(path.join(samples, name), output))) {
    throw new Sentence(`SAMPLES=${samples} has files of the page itself: name another folder.`);
  }
  const names = picked.map((name) => name.split(path.sep).join(' '));
  const copies = new Map([
    ...['index.html', 'style.css', 'icon.svg'].map((name) => [name, path.join(source, name)]),
    ...RUNTIMES.flatMap((name) => [`${name}.js`, `${name}.wasm`])
      .map((name) => [`wasm/${name}`, path.join(runtime, name)]),
    ...['model.json', 'model.tflite'].map((name) => [name, path.join(model, name)]),
    ...names.map((name, i) => [`samples/${name}`, path.join(samples, picked[i])]),
  ]);
  clear(output);
  for (const folder of ['wasm', 'samples']) {
    fs.mkdirSync(path.join(output, folder), { recursive: true });
  }
  // The list first: a build that was cut short can be built again.
  const written = [...copies.keys(), ...PROGRAMS.map((name) => `${name}.js`), 'samples.json'];
  fs.writeFileSync(path.join(output, BUILT), JSON.stringify(written));
  await build({
    entryPoints: PROGRAMS.map((name) => path.join(source, `${name}.ts`)),
    outdir: output,
    bundle: true,
    minify: true,
    target: 'es2022',
    format: 'iife',  // LiteRT loads its script as classic workers do.
    logLevel: 'warning',
  });
  for (const [name, from] of copies) fs.copyFileSync(from, path.join(output, name));
  fs.writeFileSync(path.join(output, 'samples.json'), JSON.stringify(names));
}

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    samples: { type: 'string', default: '' },
    output: { type: 'string', default: path.join(here, 'dist') },
  },
});
try {
  await write(values.model, values.samples, values.output);
  const bytes = filesOf(values.output)
    .reduce((sum, name) => sum + fs.statSync(path.join(values.output, name)).size, 0);
  const below = path.relative('', values.output) || '.';
  const shown = below.startsWith('..') ? path.resolve(values.output) : below;
  console.log(`Written: ${shown}/ (${(bytes / 1e6).toFixed(1)} MB, files for any server).`);
  console.log(`Try: python -m http.server --directory ${shown}   and open http://localhost:8000`);
} catch (error) {
  if (!(error instanceof Sentence)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
