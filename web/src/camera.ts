/** The camera: frame after frame, as fast as they are looked at. */

import { byId } from './page';
import { Sentence } from './sentence';

const REASONS: Record<string, string> = {
  NotAllowedError: 'The camera was not allowed: allow it in the browser’s settings of this page.',
  NotFoundError: 'No camera was found.',
  NotReadableError: 'The camera is in use by another program.',
};

export class Camera {
  private stream: MediaStream | null = null;
  private readonly video = byId<HTMLVideoElement>('video');

  get on(): boolean {
    return this.stream !== null;
  }

  /**
   * @param look is awaited before the next frame is taken.
   * @throws Sentence: there is none, or it is not allowed.
   */
  async start(look: (frame: ImageBitmap) => Promise<void>): Promise<void> {
    if (!navigator.mediaDevices) {
      throw new Sentence('The camera needs a page from https or from this computer (localhost).');
    }
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    } catch (error) {
      throw new Sentence(REASONS[(error as Error).name] ?? 'The camera did not start.');
    }
    this.stream = stream;
    this.video.srcObject = stream;
    await this.video.play();
    void this.run(stream, look);
  }

  stop(): void {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
  }

  private async run(
    stream: MediaStream, look: (frame: ImageBitmap) => Promise<void>,
  ): Promise<void> {
    // Each pass waits for the screen: a page that nobody sees looks at nothing.
    while (this.stream === stream) {
      await new Promise(requestAnimationFrame);
      if (this.stream !== stream) return;
      if (this.video.readyState < this.video.HAVE_CURRENT_DATA) continue;
      const frame = await createImageBitmap(this.video);
      // A photo may have come meanwhile, which this frame would take the place of.
      if (this.stream === stream) await look(frame);
    }
  }
}
