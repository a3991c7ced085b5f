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
const SAMPLES = 14;
const IMAGES = /\.(avif|bmp|gif|jpe?g|png|webp)$/i;

/** What the user can mend: a sentence without a stack. */
class Sentence extends Error {}

function checkModel(folder) {
  const lacks = ['model.json', 'model.tflite'].find(
    (name) => !fs.existsSync(path.join(folder, name)));
  if (!lacks) return;
  const formats = [...exportedFormats(folder), 'tflite'].join(',');
  throw new Sentence(
    `${path.join(folder, lacks)} does not exist; export a run first `
    + `(python -m basisnet_jax.main --mode=export --workdir=runs/digits --format=${formats} `
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

/** Some images of a folder and the folders in it, evenly: some of each class, if those are they. */
function pickSamples(folder) {
  if (!folder) return [];
  if (!fs.existsSync(folder)) throw new Sentence(`SAMPLES=${folder} does not exist.`);
  const names = fs.readdirSync(folder, { recursive: true });
  const all = names.filter((name) => IMAGES.test(name)).sort();
  if (!all.length) throw new Sentence(`SAMPLES=${folder} has no images that browsers show.`);
  const count = Math.min(all.length, SAMPLES);
  return Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)]);
}

async function write(model, samples, output) {
  checkModel(model);
  const picked = pickSamples(samples);
  // Only what was built here is ever removed.
  const marker = path.join(output, 'samples.json');
  if (fs.existsSync(output) && fs.readdirSync(output).length && !fs.existsSync(marker)) {
    throw new Sentence(`${output} has other files in it: name a new folder.`);
  }
  fs.rmSync(output, { recursive: true, force: true });
  fs.mkdirSync(path.join(output, 'wasm'), { recursive: true });
  await build({
    entryPoints: ['main.ts', 'worker.ts'].map((name) => path.join(source, name)),
    outdir: output,
    bundle: true,
    minify: true,
    target: 'es2022',
    format: 'iife',  // LiteRT loads its script as classic workers do.
    logLevel: 'warning',
  });
  for (const name of ['index.html', 'style.css', 'icon.svg']) {
    fs.copyFileSync(path.join(source, name), path.join(output, name));
  }
  for (const name of RUNTIMES.flatMap((name) => [`${name}.js`, `${name}.wasm`])) {
    fs.copyFileSync(path.join(runtime, name), path.join(output, 'wasm', name));
  }
  for (const name of ['model.json', 'model.tflite']) {
    fs.copyFileSync(path.join(model, name), path.join(output, name));
  }
  const names = picked.map((name) => name.split(path.sep).join(' '));
  fs.mkdirSync(path.join(output, 'samples'));
  picked.forEach((name, i) => {
    fs.copyFileSync(path.join(samples, name), path.join(output, 'samples', names[i]));
  });
  fs.writeFileSync(marker, JSON.stringify(names));
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
  const bytes = fs.readdirSync(values.output, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, { parentPath, name }) => sum + fs.statSync(path.join(parentPath, name)).size, 0);
  const shown = path.relative('', values.output) || '.';
  console.log(`Written: ${shown}/ (${(bytes / 1e6).toFixed(1)} MB, files for any server).`);
  console.log(`Try: python -m http.server --directory ${shown}   and open http://localhost:8000`);
} catch (error) {
  if (!(error instanceof Sentence)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
