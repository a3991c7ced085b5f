import { Sentence } from './sentence';
import { METHODS, type Method } from './resize';

/** What model.json says about the network. */
export interface About {
  labels: string[];
  /** Height and width of the images that it sees, pixels. */
  resolution: number;
  /** Side of the square that it sees, as a share of the photo's shorter side. */
  crop: number;
  resize: Method;
  /** A first prediction that is less confident than this waits for the specialist. */
  threshold: number;
  /** How the threshold did on held-out images; null if it was not measured. */
  chosen: Chosen | null;
  /** Multiply-adds of the first stage and of all: equal if it is the only one. */
  madds: { first: number; all: number };
  /** The names of the stages, in order: one or two. */
  stages: string[];
  /** Of model.tflite; older exports lack it. */
  sha256?: string;
}

export interface Chosen {
  data: string;
  images: number;
  /** The share that ended early. */
  exit_rate: number;
  average_madds: number;
}

function isChosen({ data, images, exit_rate, average_madds }: Record<string, unknown>): boolean {
  return typeof data === 'string'
    && [images, exit_rate, average_madds].every((value) => typeof value === 'number');
}

/**
 * @throws Sentence: it is not what an export writes.
 */
export function parseAbout(text: string): About {
  try {
    const {
      labels, resolution, crop, resize, threshold, madds, programs, chosen, sha256,
    } = JSON.parse(text);
    const stages = Object.keys(programs);
    const right =
      Array.isArray(labels) && labels.length > 0
      && labels.every((label) => typeof label === 'string')
      && Number.isInteger(resolution) && resolution > 0 && crop > 0 && crop <= 1
      && Object.hasOwn(METHODS, resize) && typeof threshold === 'number'
      && typeof madds.all === 'number'
      && (chosen == null || isChosen(chosen))
      && (stages.length === 1 || (stages.length === 2 && typeof madds.first === 'number'));
    if (right) {
      const cost = { first: madds.first ?? madds.all, all: madds.all };
      return {
        labels, resolution, crop, resize, threshold, chosen: chosen ?? null, madds: cost, stages,
        sha256: sha256?.['model.tflite'],
      };
    }
  } catch {
    // Not JSON, or incomplete: the same sentence for the visitor.
  }
  throw new Sentence('model.json is broken: it is not what --mode=export writes.');
}
