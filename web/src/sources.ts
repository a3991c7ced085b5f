/** Where photos come from: the file chooser, a drop, the clipboard, the samples. */

import { download } from './download';
import { byId, make } from './page';

export type Take = (photo: Blob, name: string) => void;

export function listen(take: Take): void {
  const file = byId<HTMLInputElement>('file');
  file.addEventListener('change', () => {
    if (file.files?.length) take(file.files[0], file.files[0].name);
    file.value = '';  // The same file again is a change, too.
  });

  // All of the page takes drops: a photo that missed would replace the page.
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
    const dropped = event.dataTransfer?.files[0];
    if (dropped && !file.disabled) take(dropped, dropped.name);
  });

  document.addEventListener('paste', (event) => {
    const pasted = event.clipboardData?.files[0];
    if (pasted && !file.disabled) take(pasted, 'from the clipboard');
  });
}

/** The build writes the samples' names; without any there is nothing to see. */
export async function listSamples(take: Take, fail: (error: unknown) => void): Promise<void> {
  const names: string[] = JSON.parse(new TextDecoder().decode(await download('samples.json')));
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
        take(new File([bytes], name), name);
      } catch (error) {
        fail(error);
      }
    });
    return make('li', '', button);
  }));
  byId('samples').hidden = names.length === 0;
}
