/** The photo, and the pixels that the network saw of it. */

import { byId } from './page';

let address = '';

export function showPhoto(photo: Blob, name: string): void {
  const image = byId<HTMLImageElement>('shown');
  URL.revokeObjectURL(address);
  address = URL.createObjectURL(photo);
  image.src = address;
  image.alt = `Your photo: ${name}`;
  show('shown');
}

export function showVideo(): void {
  show('video');
}

export function showInvitation(): void {
  show('invitation');
}

function show(which: string): void {
  for (const id of ['shown', 'video', 'invitation']) byId(id).hidden = id !== which;
}

export function showSeen(rgb: Uint8ClampedArray, resolution: number): void {
  const canvas = byId<HTMLCanvasElement>('seen-pixels');
  canvas.width = canvas.height = resolution;
  const image = new ImageData(resolution, resolution);
  for (let i = 0; i < resolution ** 2; i++) {
    image.data.set(rgb.subarray(i * 3, i * 3 + 3), i * 4);
    image.data[i * 4 + 3] = 255;
  }
  canvas.getContext('2d')!.putImageData(image, 0, 0);
  canvas.ariaLabel = `The ${resolution} by ${resolution} pixels that the network saw`;
  byId('seen').hidden = false;
  byId('seen').querySelector('span')!.textContent = `${resolution} × ${resolution}`;
}
