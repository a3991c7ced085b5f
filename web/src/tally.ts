/** What early termination costs over the images seen so far, at any threshold. */

import type { About } from './about';

export interface Cost {
  images: number;
  /** The share that ended early, and the average multiply-adds per image; NaN without images. */
  early: number;
  average: number;
}

export class Tally {
  /** One per image: nothing else decides. */
  private confidences: number[] = [];

  constructor(private readonly madds: About['madds']) {}

  add(confidence: number): void {
    this.confidences.push(confidence);
  }

  clear(): void {
    this.confidences = [];
  }

  cost(threshold: number): Cost {
    const images = this.confidences.length;
    const early = this.confidences.filter((c) => endsEarly(c, threshold)).length / images;
    const { first, all } = this.madds;
    return { images, early, average: first * early + all * (1 - early) };
  }

  /** How many images have a confidence in each of `parts` equal parts of [0, 1]: [late, early]. */
  histogram(parts: number, threshold: number): [number, number][] {
    const counts = Array.from({ length: parts }, (): [number, number] => [0, 0]);
    for (const c of this.confidences) {
      const part = Math.min(Math.floor(c * parts), parts - 1) || 0;  // NaN counts as the least.
      counts[part][Number(endsEarly(c, threshold))]++;
    }
    return counts;
  }
}

/** Whether an image ends early; with a NaN confidence it never does. */
export function endsEarly(confidence: number, threshold: number): boolean {
  return confidence >= threshold;
}
