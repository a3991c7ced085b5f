/** Where photos come from: the file chooser, a drop, the clipboard, the samples. */

import { download } from './download';
import { byId, make } from './page';
import { Sentence } from './sentence';

/** Processes photos, one after another; `name` is for those that have none. */
export type Take = (photos: File[], name?: string) => void;
export type Fail = (error: unknown) => void;

export function listen(take: Take, fail: Fail): void {
  const file = byId<HTMLInputElement>('file');
  file.addEventListener('change', () => {
    take(Array.from(file.files ?? []));
    file.value = '';  // So that choosing the same file again is a change, too.
  });

  // The whole page takes drops: a photo that missed the target would replace the page.
  const drop = byId('drop');
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) drop.classList.remove('over');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    if (file.disabled) return;
    const dropped = Array.from(event.dataTransfer?.files ?? []);
    if (dropped.length) take(dropped);
    else fail(new Sentence('That was no file: drop photos that are on this device.'));
  });

  document.addEventListener('paste', (event) => {
    const pasted = Array.from(event.clipboardData?.files ?? []);
    if (pasted.length && !file.disabled) take(pasted, 'from the clipboard');
  });
}

/** Lists the samples that the build named; without any, nothing is shown. */
export async function listSamples(take: Take, fail: Fail): Promise<void> {
  const names = parseNames(new TextDecoder().decode(await download('samples.json')));
  byId('samples').querySelector('ul')!.append(...names.map((name, i) => {
    const image = document.createElement('img');
    image.src = `samples/${encodeURIComponent(name)}`;
    image.alt = `Sample ${i + 1}: ${name}`;
    image.loading = 'lazy';
    const button = make('button', 'sample', image) as HTMLButtonElement;
    button.type = 'button';
    button.addEventListener('click', async () => {
      try {
        const bytes = await download(`samples/${encodeURIComponent(name)}`);
        take([new File([bytes], name)]);
      } catch (error) {
        fail(error);
      }
    });
    return make('li', '', button);
  }));
  byId('samples').hidden = names.length === 0;
}

function parseNames(text: string): string[] {
  try {
    const names = JSON.parse(text);
    if (Array.isArray(names)) return names;
  } catch {
    // Not JSON: the same sentence for the visitor.
  }
  throw new Sentence('samples.json is broken: build this page again by make web.');
}
