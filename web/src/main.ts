/** The page: from photos to answers, one after another. */

import { parseAbout, type About } from './about';
import { showAnswer, type Looked } from './answer_view';
import { Camera } from './camera';
import { prepareCoefficients, showCoefficients } from './coefficients_view';
import { Dial, showCost } from './cost_view';
import { download } from './download';
import { Network } from './network';
import { byId, madds, tell } from './page';
import { showInvitation, showPhoto, showSeen, showVideo } from './photo_view';
import type { Photo } from './pixels';
import { Sentence, sentenceOf } from './sentence';
import { listen, listSamples } from './sources';
import { endsEarly, Tally } from './tally';

async function start(): Promise<void> {
  if (location.protocol === 'file:') {
    throw new Sentence(
      'Open this page from a server, such as python -m http.server --directory THIS_FOLDER.');
  }
  if (typeof WebAssembly === 'undefined' || typeof OffscreenCanvas === 'undefined') {
    throw new Sentence('This browser is too old: it lacks WebAssembly or OffscreenCanvas.');
  }
  const about = parseAbout(new TextDecoder().decode(await download('model.json')));
  tell(byId('phase'), 'Loading the network');
  const progress = byId<HTMLProgressElement>('progress');
  const model = await download('model.tflite', (share) => { progress.value = share; });
  progress.removeAttribute('value');
  tell(byId('phase'), 'Starting LiteRT');
  const network = new Network();
  describe(about, model.byteLength);
  // This transfers the bytes to the worker: there are none left here.
  const clockStep = await network.open(about, model.buffer);
  await run(about, network, clockStep);
  byId('loading').hidden = true;
  tell(byId('said'), 'Ready for photos.');
}

async function run(about: About, network: Network, clockStep: number): Promise<void> {
  const tally = new Tally(about.madds);
  const dial = new Dial(about, () => void queue(update));
  const camera = new Camera();
  let looked: Looked | null = null;

  // One thing after another: the worker holds one photo.
  let last: Promise<void> = Promise.resolve();
  function queue(task: () => Promise<void>): Promise<void> {
    last = last.then(task).catch(fail);
    return last;
  }

  async function look(photo: Photo): Promise<void> {
    // If it is not an image, the previous photo and its answer stay.
    const first = await network.look(photo);
    byId('problem').hidden = true;
    looked = { first, second: null };
    tally.add(first.confidence);
    showSeen(first.seen, about.resolution);
    await update();
  }

  /** Shows the threshold's effect on this photo and all before; runs the specialist if needed. */
  async function update(): Promise<void> {
    const early = about.stages.length === 1
      || (looked !== null && endsEarly(looked.first.confidence, dial.threshold));
    if (looked) {
      if (!early) looked.second ??= await network.specialize();
      showAnswer(looked, dial.threshold, about, clockStep);
      if (looked.first.coefficients) showCoefficients(looked.first.coefficients, early);
    }
    if (about.stages.length > 1) showCost(tally, dial.threshold, about);
  }

  function take(photos: File[], name?: string): void {
    stopCamera();
    const unseen: unknown[] = [];
    for (const photo of photos) {
      void queue(async () => {
        try {
          await look(photo);
          showPhoto(photo, name ?? photo.name);
        } catch (error) {
          unseen.push(error);
        }
      });
    }
    // At the end: the next photo would replace what is said about this one.
    void queue(async () => {
      if (unseen.length > 1) {
        throw new Sentence(`${unseen.length} of ${photos.length} files were not seen. `
          + sentenceOf(unseen[0]));
      }
      if (unseen.length) throw unseen[0];
      byId('headline').scrollIntoView({ block: 'nearest' });  // Phones have it below the photo.
    });
  }

  function stopCamera(): void {
    if (camera.on) showInvitation();
    camera.stop();
    showCamera(false);
  }

  async function toggleCamera(): Promise<void> {
    if (camera.on) {
      stopCamera();
      return;
    }
    const button = byId<HTMLButtonElement>('camera');
    button.disabled = true;  // Until the visitor has allowed it or refused.
    try {
      const started = await camera.start((frame) => queue(() => look(frame)), () => {
        stopCamera();
        // After its last frame, which would remove the sentence.
        void queue(async () => { throw new Sentence('The camera is gone.'); });
      });
      if (started) {
        showCamera(true);
        showVideo();
      }
    } catch (error) {
      stopCamera();
      fail(error);
    } finally {
      button.disabled = false;
    }
    // It lost the focus while it was disabled.
    if (document.activeElement === document.body) button.focus();
  }

  listen(take, fail);
  byId('camera').addEventListener('click', () => void toggleCamera());
  byId('clear').addEventListener('click', () => {
    tally.clear();
    void queue(update);
    byId('threshold').focus();  // The button is disabled now and would lose the focus.
  });
  prepareCoefficients();
  byId('cost').hidden = about.stages.length === 1;
  await listSamples(take, fail).catch(fail);  // The visitor's own photos will do.
  await queue(update);
  for (const id of ['file', 'camera']) byId<HTMLInputElement>(id).disabled = false;
}

function showCamera(on: boolean): void {
  const button = byId('camera');
  button.dataset.on = String(on);
  tell(button, on ? 'Stop the camera' : 'Start the camera');
}

function describe({ labels, resolution, stages, madds: cost }: About, bytes: number): void {
  const some = labels.slice(0, 20).join(', ') + (labels.length > 20 ? ', …' : '');
  const price = stages.length === 1
    ? `${madds(cost.all)} multiply-adds (MAdds)`
    : `${madds(cost.first)} multiply-adds (MAdds) for the lightweight model, ${madds(cost.all)} `
      + 'with the specialist';
  tell(byId('about'), `It tells ${labels.length} labels apart: ${some}. It sees ${resolution} × `
    + `${resolution} pixels and takes ${price}. The file has ${(bytes / 1e6).toFixed(1)} MB and `
    + 'runs by LiteRT in WebAssembly.');
  if (stages.length === 1) tell(byId('idea'), 'This network has one stage.');
}

function fail(error: unknown): void {
  const problem = byId('problem');
  problem.hidden = false;
  problem.textContent = sentenceOf(error);
  problem.scrollIntoView({ block: 'nearest' });  // It is above the photo.
}

start().catch((error) => {
  byId('loading').hidden = true;
  fail(error);
});
