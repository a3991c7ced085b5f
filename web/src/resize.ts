/**
 * Pillow's resize of 8-bit images, to the bit, since scaling by a canvas gives networks other
 * pixels than they were trained on: separable, antialiased, in 22-bit fixed point, with the
 * intermediate image rounded to 8 bits.
 */

export type Method = 'bilinear' | 'bicubic';

interface Filter {
  /** Where it ends, in source pixels (in target pixels, if the target is the smaller image). */
  support: number;
  at(distance: number): number;
}

export const METHODS: Record<Method, Filter> = {
  bilinear: { support: 1, at: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { support: 2, at: cubic },
};

const BITS = 22;
const HALF = 1 << (BITS - 1);

/** Keys' cubic with a = -0.5. */
function cubic(distance: number): number {
  const a = -0.5;
  const x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** What makes up one pixel of the result: weights of the source's pixels from `first` on. */
interface Taps {
  first: number;
  weights: Int32Array;
}

function taps(from: number, to: number, { support, at }: Filter): Taps[] {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), from);
    const raw = Array.from({ length: end - first }, (_, j) =>
      at((j + first - center + 0.5) * (1 / stretch)));
    const sum = raw.reduce((a, b) => a + b, 0);
    const weights = Int32Array.from(raw, (weight) => {
      const fixed = (weight / sum) * 2 ** BITS;
      return Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    });
    return { first, weights };
  });
}

/**
 * Resizes a square image, to RGB.
 *
 * @param rows returns `count` rows of the square from `top` on, RGBA; it is called in order, once
 *   for each row, some at a time, so that a phone's photo is never in memory as a whole.
 * @param side of the square, pixels.
 * @param size of the result, pixels.
 */
export function resizeSquare(
  rows: (top: number, count: number) => Uint8ClampedArray, side: number, size: number,
  method: Method,
): Uint8ClampedArray {
  const all = taps(side, size, METHODS[method]);
  const narrow = new Uint8ClampedArray(side * size * 3);
  const strip = 128;
  for (let top = 0; top < side; top += strip) {
    const count = Math.min(strip, side - top);
    const source = rows(top, count);
    for (let y = 0; y < count; y++) {
      across(source.subarray(y * side * 4), all, narrow.subarray((top + y) * size * 3));
    }
  }
  return down(narrow, all, size * 3);
}

/** Resizes a row of RGBA into one of RGB. */
function across(source: Uint8ClampedArray, all: Taps[], target: Uint8ClampedArray): void {
  let to = 0;
  for (const { first, weights } of all) {
    let red = HALF, green = HALF, blue = HALF;
    let from = first * 4;
    for (const weight of weights) {
      red += source[from] * weight;
      green += source[from + 1] * weight;
      blue += source[from + 2] * weight;
      from += 4;
    }
    // The array's type clamps to a byte.
    target[to++] = red >> BITS;
    target[to++] = green >> BITS;
    target[to++] = blue >> BITS;
  }
}

function down(source: Uint8ClampedArray, all: Taps[], width: number): Uint8ClampedArray {
  const target = new Uint8ClampedArray(all.length * width);
  const sums = new Int32Array(width);
  all.forEach(({ first, weights }, y) => {
    sums.fill(HALF);
    weights.forEach((weight, j) => {
      const row = source.subarray((first + j) * width, (first + j + 1) * width);
      for (let x = 0; x < width; x++) sums[x] += row[x] * weight;
    });
    for (let x = 0; x < width; x++) target[y * width + x] = sums[x] >> BITS;
  });
  return target;
}
