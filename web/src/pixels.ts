/** A photo as the network sees it, just as the export's run.py makes it with Pillow. */

import type { About } from './about';
import { resizeSquare } from './resize';
import { Sentence } from './sentence';
import { isWhole } from './whole';

const MOST_PIXELS = 64_000_000;

export type Photo = Blob | ImageBitmap;

/**
 * @returns RGB bytes of the central square, `resolution` times `resolution` pixels.
 * @throws Sentence: it is not an image, or too large.
 */
export async function seenOf(photo: Photo, about: About): Promise<Uint8ClampedArray> {
  const bitmap = photo instanceof Blob ? await decode(photo) : photo;
  try {
    const { width, height } = bitmap;
    if (width * height > MOST_PIXELS) {
      throw new Sentence(
        `${nameOf(photo)} has ${width} x ${height} pixels, more than 64 million: shrink it.`);
    }
    const side = Math.max(roundHalfEven(about.crop * Math.min(width, height)), 1);
    const left = Math.floor((width - side) / 2);
    const top = Math.floor((height - side) / 2);
    return resizeSquare(
      (row, count) => read(bitmap, left, top + row, side, count), side, about.resolution,
      about.resize);
  } finally {
    bitmap.close();
  }
}

/** The numbers that the network takes: bytes / 127.5 - 1 in float32. */
export function normalized(bytes: Uint8ClampedArray): Float32Array<ArrayBuffer> {
  return Float32Array.from(bytes, (byte) => Math.fround(byte / 127.5) - 1);
}

async function decode(photo: Blob): Promise<ImageBitmap> {
  try {
    if (isWhole(new Uint8Array(await photo.arrayBuffer()))) {
      // Upright as EXIF says; colours as in the file, since Pillow applies no profiles.
      return await createImageBitmap(
        photo, { imageOrientation: 'from-image', colorSpaceConversion: 'none' });
    }
  } catch {
    // Of another kind: the same sentence for the visitor.
  }
  throw new Sentence(`${nameOf(photo)} is not an image that this browser can read.`);
}

/** RGBA of a part, unscaled; transparent pixels on white. */
function read(
  bitmap: ImageBitmap, left: number, top: number, width: number, height: number,
): Uint8ClampedArray {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true })!;
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, left, top, width, height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** Python's `round`. */
function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

function nameOf(photo: Photo): string {
  return photo instanceof File && photo.name ? photo.name : 'This';
}
