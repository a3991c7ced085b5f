/** Runs the network off the page's thread, so that the page stays responsive. */

import {
  Environment, loadAndCompile, loadLiteRt, Tensor, type CompiledModel,
} from '@litertjs/core';

import type { About } from './about';
import type { Coefficients, First, Reply, Request, Stage } from './messages';
import { normalized, seenOf, type Photo } from './pixels';
import { Sentence, sentenceOf } from './sentence';

// TypeScript has either the DOM's types or a worker's in a program, not both.
const scope = self as unknown as {
  postMessage(reply: Reply): void;
  onmessage: (event: MessageEvent<Request & { id: number }>) => void;
  Module: object;
};

/** Finest step of the times, milliseconds: the page shows no finer ones. */
const FINEST = 0.1;

let about: About;
let model: CompiledModel;
/** Tensors of the last photo, which the specialist needs. */
let known: Record<string, Tensor> = {};

async function open(what: About, bytes: ArrayBuffer): Promise<number> {
  about = what;
  const runtime = new URL('wasm/', location.href).href;
  scope.Module = {
    // In a worker, LiteRT would look for its file beside the worker's.
    locateFile: (name: string) => runtime + name,
    // Its messages for developers would be errors on the console.
    printErr: (line: string) => console.debug(line),
  };
  // LiteRT would claim a GPU, on which nothing here runs, and warn if there is none.
  Environment.create = async () => new Environment({ webGpuDevice: null });
  try {
    await loadLiteRt(runtime);
  } catch {
    throw new Sentence(
      'LiteRT did not load: the folder wasm beside this page is missing or broken.');
  }
  try {
    await check(bytes);
    model = await loadAndCompile(new Uint8Array(bytes), { accelerator: 'wasm' });
    // The first run of each stage is mostly preparation, and shows whether the file is the one that
    // model.json describes.
    const blank = new Uint8ClampedArray(about.resolution ** 2 * 3).fill(127);
    await preview(blank);
    if (about.stages.length > 1) await specialize();
  } catch {
    throw new Sentence('model.tflite is broken, or not the one of model.json: export it again.');
  }
  return Math.max(clockStep(), FINEST);
}

/** @throws Error: the bytes do not have the SHA-256 in model.json. */
async function check(bytes: ArrayBuffer): Promise<void> {
  // Browsers offer no digests to http:// pages from another computer.
  if (about.sha256 === undefined || !crypto.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  const found = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  if (found !== about.sha256) throw new Error(found);
}

/** Browsers coarsen clocks, some so much that a stage seems to take no time, or one step. */
function clockStep(): number {
  let least = Infinity;
  for (let i = 0, last = performance.now(); i < 3; i++) {
    let now = last;
    while (now === last) now = performance.now();
    least = Math.min(least, now - last);
    last = now;
  }
  return least;
}

async function look(photo: Photo): Promise<First> {
  return preview(await seenOf(photo, about));
}

async function preview(seen: Uint8ClampedArray): Promise<First> {
  forget();
  const { resolution, stages, labels } = about;
  known.images = new Tensor(normalized(seen), [1, resolution, resolution, 3]);
  const milliseconds = await run(stages[0]);
  const probabilities = floats('probabilities');
  if (probabilities.length !== labels.length) throw new Error('other labels');
  return {
    probabilities,
    confidence: floats('confidence')[0],
    coefficients: coefficients(),
    milliseconds,
    seen,
  };
}

async function specialize(): Promise<Stage> {
  const milliseconds = await run(about.stages[1]);
  return { probabilities: floats('probabilities'), milliseconds };
}

/** Adds a stage's outputs to what is known; returns the milliseconds that it took. */
async function run(stage: string): Promise<number> {
  const signature = model.signatures[stage];
  const inputs = Object.fromEntries(
    signature.getInputDetails().map(({ name }) => [name, known[name]]));
  const begun = performance.now();
  const outputs = await signature.run(inputs);
  const milliseconds = performance.now() - begun;
  for (const [name, tensor] of Object.entries(outputs)) {
    known[name]?.delete();
    known[name] = tensor;
  }
  return milliseconds;
}

function floats(name: string): Float32Array {
  return (known[name].toTypedArray() as Float32Array).slice();
}

/** null for networks of one stage and for cascades, whose layers hold no bases. */
function coefficients(): Coefficients | null {
  if (!known.coefficients) return null;
  const [, layers, bases] = known.coefficients.type.layout.dimensions;
  return layers && bases ? { values: floats('coefficients'), layers, bases } : null;
}

function forget(): void {
  // LiteRT's memory is its own: it is not garbage-collected.
  for (const tensor of Object.values(known)) tensor.delete();
  known = {};
}

function answer(request: Request): Promise<First | Stage | number> {
  switch (request.kind) {
    case 'open':
      return open(request.about, request.model);
    case 'look':
      return look(request.photo);
    case 'specialize':
      return specialize();
  }
}

scope.onmessage = async ({ data }) => {
  try {
    scope.postMessage({ id: data.id, result: await answer(data) });
  } catch (error) {
    scope.postMessage({ id: data.id, error: sentenceOf(error) });
  }
};
