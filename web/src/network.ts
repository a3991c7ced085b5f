/** The network, as the page sees it: what the worker does, as promises. */

import type { About } from './about';
import type { First, Reply, Request, Stage } from './messages';
import type { Photo } from './pixels';
import { Sentence } from './sentence';

export class Network {
  private readonly worker = new Worker('worker.js');
  private readonly waiting = new Map<
    number, { resolve(result: any): void; reject(error: Error): void }
  >();
  private count = 0;

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if ('error' in data) reject(new Sentence(data.error));
      else resolve(data.result);
    };
    this.worker.onerror = () => {
      for (const { reject } of this.waiting.values()) {
        reject(new Sentence('The program that runs the network failed: load this page again.'));
      }
      this.waiting.clear();
    };
  }

  /** Loads the network; returns the step of the clock that times the stages, milliseconds. */
  open(about: About, model: ArrayBuffer): Promise<number> {
    return this.ask({ kind: 'open', about, model }, [model]);
  }

  /** Runs the first stage on a photo. */
  look(photo: Photo): Promise<First> {
    return this.ask({ kind: 'look', photo }, photo instanceof ImageBitmap ? [photo] : []);
  }

  /** Runs the second stage on the last photo of `look`. */
  specialize(): Promise<Stage> {
    return this.ask({ kind: 'specialize' });
  }

  private ask(request: Request, transfer: Transferable[] = []): Promise<any> {
    const id = this.count++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...request }, transfer);
    });
  }
}
