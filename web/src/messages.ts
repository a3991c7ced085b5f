/** What the page and its worker say to each other. */

import type { About } from './about';
import type { Photo } from './pixels';

export type Request =
  | { kind: 'open'; about: About; model: ArrayBuffer }
  | { kind: 'look'; photo: Photo }
  | { kind: 'specialize' };

/** A stage's output for a photo. */
export interface Stage {
  probabilities: Float32Array;
  milliseconds: number;
}

/** One row per layer with bases, with one weight per basis. */
export interface Coefficients {
  values: Float32Array;
  layers: number;
  bases: number;
}

export interface First extends Stage {
  confidence: number;
  coefficients: Coefficients | null;
  /** The pixels that the network saw, RGB. */
  seen: Uint8ClampedArray;
}

export type Reply =
  | { id: number; result: First | Stage | number }
  | { id: number; error: string };
